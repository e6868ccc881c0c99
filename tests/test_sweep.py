"""sweep.py: expansion, folders, workers, kills and signals, tables; mostly with a stand-in for the trainer."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT
from tree import copy_tree, run, train_flags

from engine import result, slurm, sweep_folder, sweep_table, sweeps

STAND_IN = ROOT / "tests" / "stand_in.py"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("max_steps: 3\nlr: 0.1\n")
    return path


def command(config, out, *more):
    return [sys.executable, ROOT / "sweep.py", "--config", config, "--out", out, "--script", STAND_IN, *more]


def sweep(*arguments, **environment):
    words = [str(word) for word in command(*arguments)]
    settings = {**os.environ, **environment}
    return subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=120)


def begin(*arguments):
    words = [str(word) for word in command(*arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def table_of(out):
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def starts(out):
    """Return {run: process ids that began it}, from the logs."""
    return {
        log.parent.name: re.findall(r"^start (\d+)", log.read_text(), re.MULTILINE) for log in out.glob("*/log.txt")
    }


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def finished(out):
    return sum(path.is_file() for path in out.glob("*/result.json"))


# ---------------------------------------------------------------- expansion


def test_the_last_set_varies_fastest_and_configs_slowest(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"lr: 1\nseed: 9\nmodel: {name}\n")
    configs = [str(tmp_path / f"{name}.yaml") for name in ("a", "b")]
    runs = sweeps.expand(configs, {"lr": ["1e-3", "1e-2"], "seed": ["1", "2"]})
    assert [(run.settings["lr"], run.settings["seed"]) for run in runs[:4]] == [
        ("1e-3", "1"), ("1e-3", "2"), ("1e-2", "1"), ("1e-2", "2"),
    ]  # fmt: skip
    assert runs[0].name == "000_a-lr1e-3-seed1" and runs[7].name == "007_b-lr1e-2-seed2"
    assert [run.config for run in runs] == [configs[0]] * 4 + [configs[1]] * 4


def test_values_with_commas_stand_in_quotes():
    assert sweeps.split_set('x="0.1,0.4","0.2,0.3"') == ("x", ["0.1,0.4", "0.2,0.3"])
    assert sweeps.split_set("--lr = 1e-3 , 1e-2") == ("lr", ["1e-3", "1e-2"])
    assert sweeps.split_set("lists=a b,c") == ("lists", ["a b", "c"])
    for text in ("lr", "lr=", "=1", "lr=1,,2"):
        with pytest.raises(ValueError, match="write it as key=value1,value2"):
            sweeps.split_set(text)


def test_rows_hold_settings_that_belong_together(tmp_path):
    (tmp_path / "c.yaml").write_text("lr: 1\nscheduler: cyclic\nsave_path: exps/x\n")
    rows = [{"tag": "baseline"}, {"tag": "flat", "scheduler": "constant"}]
    runs = sweeps.expand([str(tmp_path / "c.yaml")], {"seed": [1, 2]}, rows, {"lr": 2}, "ignored")
    assert [run.name for run in runs] == [
        "000_baseline-seed1",
        "001_baseline-seed2",
        "002_flat-seed1",
        "003_flat-seed2",
    ]
    assert runs[0].values == {"scheduler": "cyclic", "seed": 1}
    assert runs[3].settings == {"lr": 2, "scheduler": "constant", "seed": 2, "tag": "flat"}


def test_a_later_alias_of_a_flag_comes_later():
    assert list(sweeps.merge({"lr": 1, "val_interval": 2}, {"test_interval": 3}, {"lr": 4})) == [
        "val_interval", "test_interval", "lr",
    ]  # fmt: skip


# ---------------------------------------------------------------- running


def test_a_sweep_ends_with_tables_and_is_not_repeated(config, tmp_path):
    out = tmp_path / "out"
    flags = ("--set", "lr=1e-3,1e-2", "--set", "seed=1,2,3", "--array_parallelism", 2)
    done = sweep(config, out, *flags, "--summary")
    assert done.returncode == 0, done.stderr
    rows = table_of(out)
    assert [row["best"] for row in rows] == ["*", "", "", "", "", ""]
    assert (rows[0]["lr"], rows[0]["seed"], rows[0]["status"]) == ("1e-2", "1", "done")
    assert [float(row["val_eer"]) for row in rows] == sorted(float(row["val_eer"]) for row in rows)
    assert {row["revision"] for row in rows} == {"abc"}
    stored = yaml.safe_load((out / rows[0]["run"] / "run.yaml").read_text())
    assert stored == {"max_steps": 3, "lr": "1e-2", "seed": "1"}
    summary = (out / "summary.md").read_text()
    assert summary in done.stdout and "| **1e-2** | **3** | **0.53 ± 0.10 (0.43 to 0.63)** |" in summary
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    again = sweep(config, out, *flags)
    assert again.returncode == 0 and "6 runs (6 done), 0 to run" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    # a larger grid keeps what is there
    more = sweep(config, out, "--set", "lr=1e-4,1e-3,1e-2", "--set", "seed=1,2,3")
    assert more.returncode == 0 and "6 done, 3 waiting), 3 to run" in more.stdout
    assert {len(pids) for pids in starts(out).values()} == {1}


def test_failed_runs_are_counted_told_and_repeated_on_request(config, tmp_path):
    out = tmp_path / "out"
    flags = ("--set", "ends=well,badly,silently,killed,diverged", "--array_parallelism", 3)
    done = sweep(config, out, *flags)
    assert done.returncode == 103
    rows = {row["ends"]: row for row in table_of(out)}
    assert {ends: row["status"] for ends, row in rows.items()} == {
        "well": "done", "badly": "failed", "silently": "failed", "killed": "failed", "diverged": "diverged",
    }  # fmt: skip
    assert rows["badly"]["error"] == "the disk is full" and "SIGKILL" in rows["killed"]["error"]
    assert rows["silently"]["error"] == "ended without writing result.json"
    assert (rows["diverged"]["val_eer"], rows["well"]["best"]) == ("1", "*")
    assert "failed: 001_endsbadly: the disk is full; --retry_failed runs it again" in done.stdout
    assert json.loads((out / "001_endsbadly" / "result.json").read_text())["exit_code"] == 2
    assert sweep(config, out, *flags).returncode == 103 and len(starts(out)["001_endsbadly"]) == 1
    (out / "001_endsbadly" / "mended").touch()
    again = sweep(config, out, *flags, "--retry_failed")
    assert again.returncode == 102 and result.read(out / "001_endsbadly")["status"] == "done"
    counted = {name: len(pids) for name, pids in starts(out).items()}
    assert counted == {
        "000_endswell": 1, "001_endsbadly": 2, "002_endssilently": 2, "003_endskilled": 2, "004_endsdiverged": 1,
    }  # fmt: skip


def test_twelve_runs_survive_a_kill_of_the_sweep(config, tmp_path):
    """kill -9 of the sweep and of one of its two runs: the other is waited for, nothing is done twice."""
    out = tmp_path / "out"
    flags = ("--set", "lr=1,2,3,4", "--set", "seed=1,2,3", "--set", "step_seconds=0.15", "--array_parallelism", 2)
    first = begin(config, out, *flags)
    wait_until(lambda: finished(out) >= 4 and len(list(filter(None, starts(out).values()))) >= 6)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    alive = [name for name, pids in sorted(starts(out).items()) if pids and result.read(out / name) is None]
    assert alive, "no run was going when the sweep was killed"
    victim = alive[0]
    os.kill(int(starts(out)[victim][0]), signal.SIGKILL)
    before = {name for name in starts(out) if result.read(out / name)}
    second = sweep(config, out, *flags)
    assert second.returncode == 0, second.stdout + second.stderr
    assert finished(out) == 12 and len(table_of(out)) == 12
    counted = {name: len(pids) for name, pids in starts(out).items()}
    assert {name for name, number in counted.items() if number > 1} <= {victim} and set(before) <= set(counted)
    log = (out / victim / "log.txt").read_text()
    assert log.count("step 3") == 1  # it went on from its last step


def test_a_run_left_alive_is_waited_for(config, tmp_path):
    out = tmp_path / "out"
    flags = ("--set", "lr=1,2", "--set", "step_seconds=0.5", "--array_parallelism", 2)
    first = begin(config, out, *flags)
    wait_until(lambda: len(starts(out)) == 2 and all(starts(out).values()))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = sweep(config, out, *flags)
    assert second.returncode == 0 and second.stdout.count("still running, left by an earlier sweep") == 2
    assert {len(pids) for pids in starts(out).values()} == {1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_handed_on_and_the_same_command_goes_on(config, tmp_path, number):
    out = tmp_path / "out"
    flags = ("--set", "lr=1,2,3", "--set", "step_seconds=0.2", "--set", "max_steps=5", "--array_parallelism", 2)
    first = begin(config, out, *flags)
    wait_until(lambda: len(starts(out)) == 2 and all(starts(out).values()))
    # two sweeps of one folder at once are refused
    other = sweep(config, out, *flags)
    assert other.returncode == 2 and "another sweep.py is at work there" in other.stderr
    first.send_signal(number)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 75 and "the same command goes on from there" in output
    assert finished(out) == 0 and {row["status"] for row in table_of(out)} == {"unfinished", "waiting"}
    second = sweep(config, out, *flags)
    assert second.returncode == 0 and finished(out) == 3
    for log in out.glob("*/log.txt"):
        assert re.findall(r"step (\d)", log.read_text()) == ["1", "2", "3", "4", "5"]


def test_cores_and_gpus_are_shared_out(config, tmp_path):
    flags = ("--set", "lr=1,2,3,4", "--set", "step_seconds=0.1", "--array_parallelism", 2)
    environment = {"CUDA_VISIBLE_DEVICES": "4,7"}
    cores = len(os.sched_getaffinity(0))
    out = tmp_path / "out"
    words = [str(word) for word in command(config, out, *flags)]
    settings = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | environment
    assert subprocess.run(words, cwd=ROOT, env=settings, capture_output=True).returncode == 0
    told = [re.search(r"start \d+ (\S*) (\d+)", log.read_text()).groups() for log in sorted(out.glob("*/log.txt"))]
    assert {gpu for gpu, _ in told} == {"4", "7"} and {threads for _, threads in told} == {str(max(1, cores // 2))}
    # one run at a time sees them all
    assert sweep(config, tmp_path / "one", "--set", "lr=1", **environment).returncode == 0
    assert "4,7" in (tmp_path / "one" / "000_c" / "log.txt").read_text()


def test_dry_run_writes_nothing(config, tmp_path):
    done = sweep(config, tmp_path / "out", "--set", "lr=1,2", "--dry_run")
    assert done.returncode == 0 and done.stdout.splitlines() == ["2 runs:", "000_lr1", "001_lr2"]
    assert not (tmp_path / "out").exists()


def test_a_sweep_file_its_options_and_what_the_command_line_changes(config, tmp_path):
    (tmp_path / "s.yaml").write_text(
        "text: A title\ntag: t\nconfigs: [c.yaml]\nwith: {max_steps: 1}\nset: {lr: [1, 2], seed: [1]}\n"
        "options: {array_parallelism: 2}\n"
    )
    words = [sys.executable, ROOT / "sweep.py", "--sweep", tmp_path / "s.yaml", "--script", STAND_IN]
    words += ["--set", "seed=3,4", "--set", "max_steps=2", "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = table_of(tmp_path / "out")
    assert {(row["lr"], row["seed"], row["max_steps"], row["tag"]) for row in rows} == {
        (lr, seed, "2", "t") for lr in "12" for seed in "34"
    }
    assert (tmp_path / "out" / "summary.md").read_text().startswith("A title\n\n|")


def test_the_sweep_file_of_the_page_is_one(tmp_path):
    text = (ROOT / "docs" / "sweep.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "demo.yaml").write_text((ROOT / "configs" / "demo.yaml").read_text())
    (tmp_path / "sweeps" / "s.yaml").write_text(text)
    words = [sys.executable, ROOT / "sweep.py", "--sweep", tmp_path / "sweeps" / "s.yaml", "--dry_run"]
    done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "6 runs:\n000_cosine-seed1\n" in done.stdout, done.stderr


# ---------------------------------------------------------------- tables


def test_summary_over_seeds(tmp_path, config):
    runs = sweeps.expand([str(config)], {"lr": ["1", "2"], "seed": ["1", "2", "3"]})
    sweep_folder.plan(tmp_path, runs)
    for run_, eer in zip(runs, (0.1, 0.2, 0.6, 0.05, 0.15, None)):
        if eer is not None:
            result.write(tmp_path / run_.name, "done", {"val_eer": eer})
    summary = sweep_table.summarise(sweep_table.collect(tmp_path))
    assert [(line["lr"], line["best"], line["runs"], line["missing"]) for line in summary] == [
        ("2", "*", 2, 1), ("1", "", 3, 0),
    ]  # fmt: skip
    assert summary[1]["val_eer_mean"] == pytest.approx(0.3) and summary[1]["val_eer_std"] == pytest.approx(0.07**0.5)
    assert (summary[1]["val_eer_min"], summary[1]["val_eer_max"]) == (0.1, 0.6)
    table = sweep_table.collect(tmp_path)
    assert sweep_table.curves(table, "lr") == {"": {2.0: [0.05, 0.15], 1.0: [0.1, 0.2, 0.6]}}
    assert sweep_table.curves(table, "max_steps") == {}


# ---------------------------------------------------------------- Slurm, without one


def test_the_sbatch_script_is_written_where_there_is_no_slurm(config, tmp_path):
    out = tmp_path / "out of here"
    flags = (
        "--set",
        "lr=1,2,3",
        "--launcher",
        "slurm",
        "--array_parallelism",
        2,
        "--partition",
        "gpu",
        "--mail",
        "a@b",
    )
    done = sweep(config, out, *flags, PATH="/nothing")
    assert done.returncode == 0 and "no sbatch on this machine: the script is written" in done.stdout
    text = (out / "sweep.sbatch").read_text()
    expected = ("array=0-2%2", "requeue", "signal=B:USR1@120", "time=10080", "mem=20G", "gres=gpu:1", "partition=gpu")
    for line in (*expected, "mail-user=a@b", "cpus-per-task=6"):
        assert f"#SBATCH --{line}\n" in text
    assert "account" not in text and subprocess.run(["bash", "-n", out / "sweep.sbatch"]).returncode == 0
    assert [line.rpartition("/")[2] for line in (out / "runs.txt").read_text().splitlines()] == [
        "000_lr1", "001_lr2", "002_lr3",
    ]  # fmt: skip


@pytest.mark.parametrize("number, requeued", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_the_script_saves_on_signals_and_requeues_itself_before_the_limit(config, tmp_path, number, requeued):
    """The script as Slurm would run it, with a stand-in for scontrol."""
    out, tools = tmp_path / "out", tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/scontrol.txt\n')
    (tools / "scontrol").chmod(0o755)
    flags = ("--set", "lr=1,2", "--set", "step_seconds=0.2", "--set", "max_steps=6")
    assert sweep(config, out, *flags, "--launcher", "slurm", "--submit", False).returncode == 0
    settings = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7"}
    settings |= {"SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "1"}
    job = subprocess.Popen(["bash", out / "sweep.sbatch"], env=settings)
    wait_until(lambda: "step" in "".join(log.read_text() for log in out.glob("*/log.txt")))
    job.send_signal(number)
    assert job.wait(timeout=60) == 75 and list(starts(out)) == ["001_lr2"]
    assert (tmp_path / "scontrol.txt").exists() is requeued
    if requeued:
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 7_1\n"
    assert subprocess.run(["bash", out / "sweep.sbatch"], env=settings).returncode == 0
    assert result.read(out / "001_lr2")["status"] == "done"
    assert re.findall(r"step (\d)", (out / "001_lr2" / "log.txt").read_text()) == list("123456")


def test_slurm_flags_have_ranges():
    assert set(slurm.RANGES) == {"minutes", "gpus", "cpus", "memory_gb", "signal_seconds"}


# ---------------------------------------------------------------- the real trainer


def test_a_sweep_of_the_real_trainer(tmp_path, tiny_corpus):
    tree = copy_tree(tmp_path / "tree")
    words = list(map(str, train_flags(tiny_corpus, "unused", max_epoch=2, test_interval=2)))
    settings = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2]))
    settings["valid_list"] = settings["test_list"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    flags = ("--config", tmp_path / "c.yaml", "--out", tmp_path / "out", "--array_parallelism", 2)
    done = run(tree, "sweep.py", *flags, "--set", "tiny_width=8,16")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table_of(tmp_path / "out")
    assert {row["status"] for row in rows} == {"done"} and {row["tiny_width"] for row in rows} == {"8", "16"}
    assert all(0 <= float(row["val_eer"]) <= 1 and 0 <= float(row["test_eer_trials"]) <= 1 for row in rows)
    assert yaml.safe_load((tmp_path / "out" / "000_tiny_width8" / "args.yaml").read_text())["tiny_width"] == 8
