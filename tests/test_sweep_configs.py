"""The experiments with limited data: every config and every grid that ships loads, expands and fits the trainer."""

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from engine import sweeps

FOLDER = ROOT / "configs" / "lowresource"
SWEEPS = sorted((FOLDER / "sweeps").glob("*.yaml"))
NETWORKS, DATA = ("xvector", "ecapa", "wav2vec2"), ("full", "tiny_few", "tiny_many_low", "tiny_many_high")
# Section "best lr" of the study: (best decade, best of the detailed grid, seeds of the step experiment).
BEST = {
    ("xvector", "tiny_few"): (1e-2, 1.78e-2, (7348, 12935, 6622)),
    ("xvector", "tiny_many_high"): (1e-2, 1.78e-3, (32188, 60801, 73677)),
    ("xvector", "tiny_many_low"): (1e-4, 1.00e-4, (30921, 90124, 70956)),
    ("xvector", "full"): (1e-3, 3.16e-3, (51412, 38396, 11558)),
    ("ecapa", "tiny_few"): (1e-2, 1.78e-2, (87510, 83832, 49529)),
    ("ecapa", "tiny_many_high"): (1e-2, 5.62e-3, (89540, 80774, 47997)),
    ("ecapa", "tiny_many_low"): (1e-2, 5.62e-3, (54190, 54160, 86823)),
    ("ecapa", "full"): (1e-2, 5.62e-3, (69317, 43142, 8754)),
    ("wav2vec2", "tiny_few"): (1e-5, 5.62e-6, (62204, 20427, 456)),
    ("wav2vec2", "tiny_many_high"): (1e-4, 1.78e-4, (73232, 95015, 69018)),
    ("wav2vec2", "tiny_many_low"): (1e-4, 1.78e-4, (45979, 43354, 68179)),
    ("wav2vec2", "full"): (1e-4, 1.78e-4, (69317, 43142, 8754)),
}
ABLATION = {
    "baseline": {},
    "lr_constant": {"scheduler": "constant"},
    "lr_exp_decay": {"scheduler": "exp_decay"},
    "lr_1_cycle": {"half_period_steps": 25000},
    "weights_random_init": {"reset_weights": True, "freeze_cnn": False, "initially_frozen": False},
    "weights_no_freeze": {"freeze_cnn": False, "initially_frozen": False},
    "weights_freeze_cycle": {"freeze_cnn": False},
    "weights_freeze_cycle_cnn": {"initially_frozen": False},
    "reg_none": {"regularisation": "none"},
    "reg_dropout": {"regularisation": "dropout"},
    "reg_mask": {"regularisation": "masking"},
    "reg_layerdrop": {"regularisation": "layerdrop"},
}


def runs_of(name):
    parts = sweeps.read_sweep(FOLDER / "sweeps" / f"{name}.yaml")
    return sweeps.expand(parts["configs"], parts["set"], parts["rows"], parts["with"], parts["tag"])


def settings_of(name):
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_the_experiments_are_all_there():
    configs = {f"{network}_{data}" for network in NETWORKS for data in DATA}
    ablations = {f"ablation_wav2vec2_{data}" for data in ("tiny_few", "tiny_many_high")}
    assert {path.stem for path in FOLDER.glob("*.yaml")} == configs | ablations
    grids = {f"{config}_{grid}" for config in configs for grid in ("naive_grid", "detailed_grid", "step_exp")}
    assert {path.stem for path in SWEEPS} == grids | ablations
    assert all(path.read_text().startswith("# ") for path in [*FOLDER.glob("*.yaml"), *SWEEPS])
    # 12 x (6 + 6 + 12) runs of grids and 2 x 12 x 3 of ablations
    assert sum(len(runs_of(path.stem)) for path in SWEEPS) == 12 * 24 + 72


@pytest.mark.parametrize("network, data", BEST)
def test_grids_are_those_of_the_study(network, data):
    decade, best, seeds = BEST[network, data]
    name = f"{network}_{data}"
    naive, detailed, steps = (runs_of(f"{name}_{grid}") for grid in ("naive_grid", "detailed_grid", "step_exp"))
    assert [float(run.settings["lr"]) for run in naive] == [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]
    factors = (0.178, 0.316, 0.562, 1.78, 3.16, 5.62)
    assert [float(run.settings["lr"]) for run in detailed] == pytest.approx([decade * f for f in factors], rel=1e-6)
    for run in (*naive, *detailed):
        assert run.settings["enroll_training_data"] is False and run.settings["max_steps"] == 50000
    grid = [(run.settings["max_steps"], run.settings["seed"]) for run in steps]
    assert grid == [(n, seed) for n in (25000, 50000, 100000, 400000) for seed in seeds]
    enrolled = network != "xvector"
    for run in steps:
        assert float(run.settings["lr"]) == best and len(run.settings["additional_test_sets"]) == 2
        assert run.settings["enroll_training_data"] is enrolled
        assert run.settings.get("post_process_scores", False) is enrolled


@pytest.mark.parametrize("data, lr", [("tiny_few", 5.62e-6), ("tiny_many_high", 1.78e-4)])
def test_ablations_change_what_the_study_changed(data, lr):
    base = settings_of(f"ablation_wav2vec2_{data}")
    assert float(base["lr"]) == lr
    runs = runs_of(f"ablation_wav2vec2_{data}")
    assert [(run.tag, run.settings["seed"]) for run in runs] == [
        (tag, seed) for tag in ABLATION for seed in (11469, 787, 23916)
    ]
    for run in runs:
        changed = {key: value for key, value in run.settings.items() if base.get(key) != value}
        assert changed == {"tag": run.tag, "seed": run.settings["seed"], **ABLATION[run.tag]}
    # apart from learning rate and folder, the base is the main config
    main = settings_of(f"wav2vec2_{data}")
    assert {key for key in base if base[key] != main.get(key)} == {"lr", "save_path"} and set(base) == set(main)


def test_the_constants_of_the_study():
    for network in NETWORKS:
        for data in DATA:
            settings = settings_of(f"{network}_{data}")
            expected = {
                "batch_size": 100, "crop_seconds": 2, "optimizer": "adam", "scheduler": "cyclic", "cycles": 4,
                "margin": 0.2, "scale": 30, "mixedprec": True, "max_steps": 50000, "sampler": "shuffle",
                "keep_last": True, "wav_scale": 1, "valid_frames": 200, "eval_first": True,
            }  # fmt: skip
            assert {key: settings[key] for key in expected} == expected
            assert settings.get("test_interval_steps") == (3125 if data == "full" else None)


def test_every_run_of_every_grid_is_accepted_by_the_trainer(tmp_path):
    paths = []
    for sweep in SWEEPS:
        for run in runs_of(sweep.stem):
            paths.append(tmp_path / f"{sweep.stem}_{run.name}.yaml")
            paths[-1].write_text(yaml.safe_dump(run.settings))
    command = [sys.executable, "trainSpeakerNet.py", "--dry_run", "--config", paths[0], "--check_configs", *paths[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # the schedules of the ablation have no cycles; nothing else may be idle
    assert {line.split(": none of")[0] for line in done.stdout.splitlines()} == {
        "warning: cycles of the config has no effect"
    }
