"""The tutorial as a reader follows it: its files are written, its commands run in order, only smaller."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from tree import copy_tree
from warm import warm

import extract_embeddings
import score_attributes
import train_attributes
import trainSpeakerNet
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
}
# 40 voices less 10 and 10 held out, where the page speaks of 100
REPLACED = {
    "keep_head_rows=80": "keep_head_rows=20",
    "max_frames=220": "max_frames=120",
    "--test_speakers 20 --dev_speakers 10": "--test_speakers 10 --dev_speakers 5",
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


# What reads the flags of a command, all that can be checked without a corpus.
READ = {
    "trainSpeakerNet.py": lambda words: parse(trainSpeakerNet.make_flags(), words, extend),
    "extract_embeddings.py": lambda words: parse(extract_embeddings.make_flags(), words),
    "train_attributes.py": train_attributes.read_flags,
    "score_attributes.py": lambda words: parse(score_attributes.COMMANDS[words[0]][1](), words[1:]),
}


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_that_need_a_corpus_at_least_parse(page):
    for block in blocks(page, "") + blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.replace("configs/", f"{ROOT}/configs/").split()
            script = next((word for word in words if word.removeprefix("./") in READ), None)
            if script and "..." not in words and "exps/mine/args.yaml" not in line and "MyNet" not in line:
                READ[script.removeprefix("./")](words[words.index(script) + 1 :])


def test_the_demo_of_attributes_is_the_tutorial():
    made = (ROOT / "Makefile").read_text().split("demo-attributes:")[1].split("\n\n")[0].replace("\\\n", " ")
    for variable, value in re.findall(r"^(\w+) := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE):
        made = made.replace(f"$({variable})", value)
    told = "\n".join(blocks(ROOT / "docs" / "attributes.md", "bash")).replace("\\\n", " ")
    told = {" ".join(line.split()[1:]) for line in told.splitlines()}
    commands = [" ".join(line.split()[1:]) for line in made.splitlines()[1:]]
    assert len(commands) >= 8 and set(commands) <= told
