"""Wrong input ends in one clear line and exit code 2; docs/wrong_input.md is the table of these lines.

VOXLAB_WRITE_TABLE=1 pytest tests/test_wrong_input.py writes the table anew.
"""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT
from tree import copy_tree, run, train_flags
from wrong_cases import BAD
from wrong_inputs import Place, judge, train

import loss
import models
import trainSpeakerNet
from engine import distributed, registry
from engine.args import parse, parse_bool
from engine.log import run_main

# The cases of all parts, under one heading where they are of one script.
CASES = {}
for part in (
    "",
    "_wav2vec2",
    "_data",
    "_scoring",
    "_vectors",
    "_score_attributes",
    "_explain",
    "_sweep",
    "_curves",
    "_attributes",
    "_stats",
    "_sampling",
    "_swap",
    "_diffusion",
    "_vqvae",
    "_eval_autoencoder",
    "_autoencoder",
):
    for title, cases in importlib.import_module(f"wrong_cases{part}").CASES.items():
        CASES.setdefault(title, []).extend(cases)

TABLE = ROOT / "docs" / "wrong_input.md"
ROWS = {}
PARAMETERS = [pytest.param(title, case, id=f"{title}: {case.given}") for title in CASES for case in CASES[title]]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def here(tree, monkeypatch):
    """Let the scripts in this process find the dropped-in network and loss of the copy."""
    monkeypatch.setattr(registry, "ROOT", tree)
    monkeypatch.setattr(models, "__path__", [str(tree / "models")])
    monkeypatch.setattr(loss, "__path__", [str(tree / "loss")])
    yield
    for name in ("models.Tiny", "loss.tiny"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def trained(tree, tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = run(tree, "trainSpeakerNet.py", *train_flags(tiny_corpus, folder, max_epoch=1))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def place(tiny_corpus, trained, tmp_path):
    return Place(tmp_path, tiny_corpus, trained)


@pytest.fixture(scope="module", autouse=True)
def table():
    """Write the table where that is asked for."""
    yield
    if os.environ.get("VOXLAB_WRITE_TABLE"):
        parts = [TABLE.read_text().split("\n## ")[0].rstrip() + "\n"]
        for title, cases in CASES.items():
            rows = "".join(f"| {case.given} | {ROWS[title, case.given]} |\n" for case in cases)
            parts.append(f"\n## {title}\n\n| given | the line |\n|---|---|\n{rows}")
        TABLE.write_text("".join(parts))


def shortened(line, place):
    """Return a line as it stands in the table: files without their folders, what belongs to a machine left out."""
    for root in (place.folder, place.corpus, place.trained):
        line = line.replace(f"{root}/", "").replace(str(root), root.name.rstrip("0123456789"))
    line = line.replace(torch.__version__, "2.13.0").replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"


@pytest.mark.parametrize("title, case", PARAMETERS)
def test_wrong_input_is_one_clear_line(title, case, here, place, monkeypatch, capsys):
    flags = [str(word) for word in case.flags(place)]
    if case.patch:
        case.patch(monkeypatch)
    script = title if title.endswith(".py") else "trainSpeakerNet.py"
    monkeypatch.setattr(sys, "argv", [script, *flags])
    with pytest.raises(SystemExit) as ended:
        run_main(importlib.import_module(script.removesuffix(".py")).main)
    errors = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(errors) == 1, errors
    assert errors[0].startswith("error: ") and case.expected in errors[0], errors
    ROWS[title, case.given] = shortened(errors[0].removeprefix("error: "), place)
    if not os.environ.get("VOXLAB_WRITE_TABLE"):
        rows = [row for row in TABLE.read_text().splitlines() if row.startswith(f"| {case.given} | ")]
        assert any(case.expected in row for row in rows), "the table of docs/wrong_input.md is old, see above"


PARSER = trainSpeakerNet.make_flags()
TYPED = [a for a in PARSER._actions if a.type in (int, float, parse_bool) or a.choices]


@pytest.mark.parametrize("action", TYPED, ids=lambda action: action.dest)
def test_every_flag_refuses_what_is_not_of_its_type(action, tmp_path, capsys):
    flag, words = action.option_strings[0], ["abc"] * (action.nargs if isinstance(action.nargs, int) else 1)
    with pytest.raises(SystemExit) as ended:
        parse(PARSER, [flag, *words])
    errors = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and len(errors) == 1, errors
    assert errors[0].startswith("error: ") and flag in errors[0] and "'abc'" in errors[0]
    (tmp_path / "c.yaml").write_text(f"{action.dest}: {'abc' if len(words) == 1 else '[abc, abc]'}\n")
    with pytest.raises(ValueError, match=rf"c\.yaml: {action.dest}: 'abc' is "):
        parse(PARSER, ["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    "script, flags, expected",
    [
        ("trainSpeakerNet.py", ["--model", "Tinny"], "nearest: Tiny"),
        ("tuneThreshold.py", ["gone.txt"], "score file gone.txt: no such file"),
        ("dataprep.py", ["--seconds", "long"], "argument --seconds"),
    ],
)
def test_a_command_ends_as_main_does(tree, script, flags, expected):
    done = run(tree, script, *flags)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ") and expected in done.stderr


def test_other_rates_and_channels_are_read_with_a_line_that_says_so(here, place, monkeypatch, capsys):
    path = shutil.copytree(place.corpus / "wav", place.folder / "wav") / BAD
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((44100, 2)), 44100)
    flags = train(train_path=path.parents[2], test_path=path.parents[2])(place)
    monkeypatch.setattr(sys, "argv", ["trainSpeakerNet.py", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        run_main(trainSpeakerNet.main)
    output = capsys.readouterr().out
    assert ended.value.code == 0
    for name in ("train_list", "test_list"):
        assert f"{name}: 1 of " in output and "resampled to 16000 Hz (44100 Hz: 1), 1 files mixed" in output


def test_an_idle_key_of_a_config_is_a_warning(here, place, monkeypatch, capsys):
    config = place.folder / "c.yaml"
    config.write_text("hard_rank: 3\n")
    monkeypatch.setattr(sys, "argv", ["trainSpeakerNet.py", *map(str, train(config=config)(place))])
    with pytest.raises(SystemExit) as ended:
        run_main(trainSpeakerNet.main)
    assert ended.value.code == 0 and "warning: hard_rank of the config has no effect" in capsys.readouterr().out


def test_a_port_in_use_gives_way_to_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert distributed._free_port(port) not in (0, port)


def test_an_evaluation_of_weights_that_are_not_finite_gives_no_error_rate(here, place, monkeypatch, capsys):
    payload = torch.load(place.trained / "checkpoints" / "last.pt", weights_only=True)
    payload["state_dict"]["__S__.bn.running_var"].fill_(torch.inf)
    torch.save(payload, place.folder / "x.pt")
    flags = judge(lambda place: place.folder / "x.pt")(place)
    monkeypatch.setattr(sys, "argv", ["trainSpeakerNet.py", *map(str, flags)])
    with pytest.raises(SystemExit) as ended:
        run_main(trainSpeakerNet.main)
    output = capsys.readouterr()
    assert ended.value.code == 2 and "EER" not in output.out and "__S__.bn.running_var" in output.err


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc")
def test_a_killed_loader_process_is_one_clear_line(tree, tiny_corpus, tmp_path):
    flags = train_flags(tiny_corpus, tmp_path / "run", max_epoch=100000, nDataLoaderThread=1, test_interval=100000)
    process = subprocess.Popen(
        [sys.executable, "trainSpeakerNet.py", *map(str, flags)],
        cwd=tree,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children, "no loader process"
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        errors = process.communicate(timeout=120)[1].splitlines()
    finally:
        process.kill()
    assert process.returncode == 2 and len(errors) == 1, errors
    assert errors[0].startswith("error: DataLoader worker") and "--nDataLoaderThread" in errors[0]
