"""What runs do for users of the original scripts: its log beside its files, and one line where a flag has gone."""

import re

import pytest
from test_train_diffusion import small, tree  # noqa: F401
from wave_training import entries, train, words

import train_classifier
import train_diffusion
from WaveTraining import original_log


def test_a_run_keeps_the_log_of_the_original(tmp_path):
    given = {"model": "unet", "base_channels": 4, "window_seconds": 0.032, "batch_size": 2}
    folder = train(tmp_path, max_steps=5, save_steps=2, log_interval=1, original_files=True, **given)
    lines = (folder / "train_log.txt").read_text().splitlines()
    shape = re.compile(r"step (\d+): loss=\d+\.\d{5}( q[0-3]=\d+\.\d{5})+")
    steps = [line if line == "# saved" else int(shape.fullmatch(line)[1]) for line in lines]
    assert steps == [1, 2, "# saved", 3, 4, "# saved", 5, "# saved"]
    first = next(entry for entry in entries(folder) if "loss" in entry)
    assert lines[0].split()[2] == f"loss={first['loss']:.5f}"


def test_the_log_says_what_there_is():
    records = [
        {"step": 3, "loss": 0.5, "vq_loss": 0.25, "q2": 1.0, "lr": 1.0},
        {"step": 4, "valid_loss": 1.0},
        {"step": 5, "loss": None, "q2": 0.5},
    ]
    assert original_log(records, 0) == "step 3: loss=0.50000 vq_loss=0.25000 q2=1.00000\nstep 5: q2=0.50000\n# saved\n"


@pytest.mark.parametrize("flag", ["--checkpoint-path", "--ema-path", "--log_file"])
@pytest.mark.parametrize("script", [train_diffusion, train_classifier])
def test_single_files_are_refused_by_name(script, flag, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script.main([*words(tmp_path, script=f"{script.__name__}.py"), flag, "model.pt"])
    said = capsys.readouterr().err
    assert "model.pt: a run is a folder, give --save_path FOLDER; --original_files" in said and said.count("\n") == 1
