"""Curves of several runs in one picture, of this project's records and of the original's logs."""

import json

import pytest

import compare_curves
from scoring import plots


@pytest.fixture
def runs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    records = [{"step": s, "loss": 1 / s, "q0": 2 / s, "q1": 4 / s, "lr": None} for s in range(1, 6)]
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    log = "step 1: loss=0.50000 q0=0.25000\n# saved\nnoise\nstep 2: loss=0.40000\nstep 3: lo"
    (tmp_path / "b" / "train_log.txt").write_text(log)
    return tmp_path


def test_a_log_of_the_original_is_read(runs):
    expected = [{"step": 1, "loss": 0.5, "q0": 0.25}, {"step": 2, "loss": 0.4}]
    assert plots.read_log(runs / "b" / "train_log.txt") == expected


def test_runs_of_both_kinds_in_one_picture(runs, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    compare_curves.main([str(runs / "a"), str(runs / "b"), "--fields", "loss", "q[01]", "--max_x", "4"])
    loss, quarters = drawn[0].axes
    assert [line.get_label() for line in loss.lines] == [str(runs / "a"), str(runs / "b")]
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    assert quarters.lines[0].get_ydata().tolist() == pytest.approx([3, 3 / 2, 1, 3 / 4])
    assert quarters.lines[1].get_ydata().tolist() == [0.25]
    assert "written: curves.png" in capsys.readouterr().out
