"""The tutorial as a reader follows it: its files are written, its commands run in order, only smaller."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from tree import copy_tree
from warm import warm

import code_speech
import compare_curves
import eval_autoencoder
import eval_diffusion
import eval_vqvae
import extract_embeddings
import sample_diffusion
import sample_vqvae
import score_attributes
import stat_compare
import stat_generate
import train_attributes
import train_autoencoder
import train_classifier
import train_diffusion
import train_vqvae
import trainSpeakerNet
import voice_swap
import WaveTraining
from engine import registry
from engine.args import parse

# What is appended to a command so that it takes seconds: fewer voices, two steps of a small batch.
SMALLER = {
    "dataprep.py --synthetic": " --speakers 40 --sessions 2 --utterances 1 --seconds 1 --workers 1",
    "trainSpeakerNet.py": " --set max_steps=2 --set batch_size=8 --set bootstrap=20 --set nDataLoaderThread=0",
    "tuneThreshold.py": " --bootstrap 20",
    "score.py": " --bootstrap 20",
    "extract_embeddings.py": " --nDataLoaderThread 0",
    "train_attributes.py --config": " --set max_epoch=2 --set test_interval=1",
    "score_attributes.py test": " --bootstrap 20",
    "train_diffusion.py": " --set max_steps=2 --set anneal_steps=1 --set batch_size=2 --set valid_windows=4"
    " --set sample_interval_steps=2 --set sample_count=1",
    "train_classifier.py": " --set max_steps=2 --set anneal_steps=1 --set batch_size=2 --set valid_windows=4",
    "train_autoencoder.py": " --set max_steps=2 --set test_interval_steps=2 --set chunk_frames=40"
    " --set least_utterances=2 --set train_share=0.5 --set nDataLoaderThread=0",
    "eval_autoencoder.py": " --bootstrap 20 --nDataLoaderThread 0",
    "stat_generate.py": " --bootstrap 20",
    "stat_compare.py": " --bootstrap 20",
}
# 40 voices less 10 and 10 held out, where the page speaks of 100
REPLACED = {
    "keep_head_rows=80": "keep_head_rows=20",
    "max_frames=220": "max_frames=120",
    "--test_speakers 20 --dev_speakers 10": "--test_speakers 10 --dev_speakers 5",
    "--num_samples 48 --batch_size 16": "--num_samples 3 --batch_size 3",
    "--num_samples 48": "--num_samples 3",
    "--steps 25": "--steps 2",
    "--pictures 4 --wavs 4": "--pictures 1 --wavs 1",
    "--set anneal_steps=0 ": "",
}


def blocks(path, language):
    """Return the fenced blocks of a page that are marked with `language` ("" for those without a mark)."""
    parts = re.split(r"^```(.*)\n", path.read_text(), flags=re.MULTILINE)
    return [body for mark, body in zip(parts[1::4], parts[2::4]) if mark == language]


# What a page's commands must have made.
PAGES = {
    "docs/speaker.md": "exps/mine_test/thresholds/det.png",
    "docs/lowresource.md": "exps/ecapa_small/scores/report.json",
    "docs/scoring.md": "exps/scoring/seconds/seconds.png",
    "docs/attributes.md": "exps/demo_attributes/two/explanation.html",
    "docs/diffusion.md": "exps/demo_diffusion/samples.png",
    "docs/generative.md": "exps/demo_autoencoder/speech.wav",
}


MADE = {}  # {command that makes a corpus: folder with what it made}, for the pages that have it in common


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs(page, tmp_path, tmp_path_factory):
    tree = copy_tree(tmp_path)
    (tree / "configs").symlink_to(ROOT / "configs")
    for code in blocks(ROOT / page, "python"):
        if code.startswith("# "):
            (tree / code.splitlines()[0].removeprefix("# ")).write_text(code)
    commands = [c.strip() for block in blocks(ROOT / page, "bash") for c in block.replace("\\\n", " ").splitlines()]
    assert len(commands) >= 7
    with warm(tree) as server:
        for command in commands:
            for start, more in SMALLER.items():
                if start in command:
                    command += more
            for long, short in REPLACED.items():
                command = command.replace(long, short)
            if command in MADE:
                shutil.copytree(MADE[command], tree / "data")
                continue
            python, script, *flags = command.split()
            assert python == "python", command
            code, text = server.wait(server.launch(*flags, script=script))
            assert code == 0, f"{command}\n{text}"
            if "dataprep.py --synthetic" in command:
                MADE[command] = shutil.copytree(tree / "data", tmp_path_factory.mktemp("corpus") / "data")
    assert (tree / PAGES[page]).exists()
    snippets = [code for code in blocks(ROOT / page, "python") if not code.startswith("# ")]
    for code in snippets:
        done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr


def extend(parser, first):
    registry.add_arguments(parser, trainSpeakerNet.chosen_classes(first).values())


def extend_vqvae(parser, first):
    classes = WaveTraining.chosen_classes(first, train_vqvae.choose_network(first))
    registry.add_arguments(parser, classes.values())


# What reads the flags of a command, all that can be checked without a corpus.
READ = {
    "trainSpeakerNet.py": lambda words: parse(trainSpeakerNet.make_flags(), words, extend),
    "extract_embeddings.py": lambda words: parse(extract_embeddings.make_flags(), words),
    "train_attributes.py": train_attributes.read_flags,
    "score_attributes.py": lambda words: parse(score_attributes.COMMANDS[words[0]][1](), words[1:]),
    "train_autoencoder.py": train_autoencoder.read_flags,
    "train_diffusion.py": train_diffusion.read_flags,
    "train_classifier.py": train_classifier.read_flags,
    "train_vqvae.py": lambda words: parse(train_vqvae.make_flags(), words, extend_vqvae),
    **{
        f"{script.__name__}.py": lambda words, script=script: parse(script.make_flags(), words)
        for script in (
            code_speech, compare_curves, eval_autoencoder, eval_diffusion, eval_vqvae, sample_diffusion, sample_vqvae,
            stat_compare, stat_generate, voice_swap,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_that_need_a_corpus_at_least_parse(page):
    for block in blocks(page, "") + blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.replace("configs/", f"{ROOT}/configs/").split()
            script = next((word for word in words if word.removeprefix("./") in READ), None)
            if script and "..." not in words and "exps/mine/args.yaml" not in line and "MyNet" not in line:
                READ[script.removeprefix("./")](words[words.index(script) + 1 :])


@pytest.mark.parametrize(
    "subject, page", [("attributes", "attributes"), ("diffusion", "diffusion"), ("autoencoder", "generative")]
)
def test_the_demo_is_the_tutorial(subject, page):
    makefile = (ROOT / "Makefile").read_text()
    made = makefile.split(f"demo-{subject}:")[1].split("\n\n")[0].replace("\\\n", " ")
    variables = re.findall(r"^(\w+) := (.*)$", makefile, re.MULTILINE)
    for variable, value in variables[::-1]:  # a later one may be made of earlier ones
        made = made.replace(f"$({variable})", value)
    told = "\n".join(blocks(ROOT / "docs" / f"{page}.md", "bash")).replace("\\\n", " ")
    told = {" ".join(line.split()[1:]) for line in told.splitlines()}
    commands = [" ".join(line.split()[1:]) for line in made.splitlines()[1:] if not line.strip().startswith("@echo")]
    assert len(commands) >= 7 and set(commands) <= told
