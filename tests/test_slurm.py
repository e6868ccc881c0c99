"""Sweeps as arrays of a real Slurm of one node (tests/slurm/node.sh): cancelled, told of the limit, requeued."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from engine import result

NODE = ROOT / "tests" / "slurm" / "node.sh"
STAND_IN = ROOT / "tests" / "stand_in.py"


@pytest.fixture
def cluster(tmp_path):
    """Start a Slurm; return the environment in which its commands find it."""
    places = os.environ["PATH"] + ":/usr/sbin"
    for program in ("slurmctld", "slurmd", "sbatch", "munged"):
        if not shutil.which(program, path=places):
            pytest.skip(f"needs a Slurm: {program} is missing (Debian packages slurm-wlm and munge)")
    if os.getuid() != 0:
        pytest.skip("a Slurm for tests is started as root")
    folder = tmp_path / "slurm"
    started = subprocess.run(["bash", NODE, "start", folder], capture_output=True, text=True)
    try:
        if started.returncode:
            pytest.skip(f"Slurm does not start here: {started.stderr.strip()[-300:]}")
        yield {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    finally:
        subprocess.run(["bash", NODE, "stop", folder])


def wait_for_requeued(member, cluster, condition, seconds=240):
    """Wait for a requeued job, which Slurm starts after two minutes, or sooner where it is asked to.

    It is not asked at once: a job that starts while the node still clears up its first start fails.
    """
    deadline = time.monotonic() + seconds
    time.sleep(10 * (not condition()))
    while not condition():
        shown = subprocess.run(["scontrol", "show", "job", member], env=cluster, capture_output=True, text=True)
        assert time.monotonic() < deadline, shown.stdout + shown.stderr
        if "JobState=PENDING" in shown.stdout:
            subprocess.run(["scontrol", "update", f"jobid={member}", "starttime=now"], env=cluster, capture_output=True)
        time.sleep(4)


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def told(out, name, pattern):
    log = out / name / "log.txt"
    return re.findall(pattern, log.read_text(), re.MULTILINE) if log.exists() else []


@pytest.mark.slow
def test_a_member_cancelled_and_requeued_and_a_run_that_requeues_itself(cluster, tmp_path):
    """Two sweeps, since Slurm lets a requeued job wait. Twelve runs, two at once: the first is cancelled while it runs,
    saves, is requeued and goes on. And one that is told of its time limit: it saves and queues itself again."""
    out, alone = tmp_path / "out", tmp_path / "alone"
    (tmp_path / "c.yaml").write_text("step_seconds: 0.1\n")

    def call(*words):
        words = [str(word) for word in words]
        done = subprocess.run(words, cwd=tmp_path, env=cluster, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submitted(output):
        return re.search(r"submitted as array job (\d+)", output).group(1)

    sweep = [sys.executable, ROOT / "sweep.py", "--config", "c.yaml", "--script", STAND_IN]
    asked = ["--launcher", "slurm", "--gpus", 0, "--cpus", 1, "--memory_gb", 1, "--minutes", 5]
    limited = submitted(call(*sweep, *asked, "--out", alone, "--set", "max_steps=40")) + "_0"
    sweep += ["--out", out, "--set", "max_steps=40,2,3,4", "--set", "seed=1,2,3"]
    job = submitted(call(*sweep, *asked, "--array_parallelism", 2, "--signal_seconds", 10))
    names = [Path(line).name for line in (out / "runs.txt").read_text().splitlines()]
    only = Path((alone / "runs.txt").read_text().strip()).name
    assert len(names) == 12
    wait_until(lambda: told(alone, only, "^step 2$"))
    # what --signal=B:USR1 does before the limit, which Slurm looks at only twice a minute
    call("scancel", "--batch", "--signal=USR1", limited)
    wait_until(lambda: "Restarts=1" in call("scontrol", "show", "job", limited))
    assert result.read(alone / only) is None
    wait_until(lambda: told(out, names[0], "^step 2$") and told(out, names[1], "^start"))
    call("scancel", f"{job}_0")
    wait_until(lambda: "JobState=CANCELLED" in call("scontrol", "show", "job", f"{job}_0"))
    assert result.read(out / names[0]) is None and not told(out, names[0], "^step 40$")
    call("scontrol", "requeue", f"{job}_0")
    wait_for_requeued(f"{job}_0", cluster, lambda: all(result.read(out / name) for name in names))
    wait_for_requeued(limited, cluster, lambda: result.read(alone / only))
    assert told(alone, only, r"^step (\d+)$") == [str(n) for n in range(1, 41)]
    assert {result.read(out / name)["status"] for name in names} == {"done"}
    assert {name for name in names if len(told(out, name, "^start")) > 1} == {names[0]}
    steps = told(out, names[0], r"^step (\d+)$")
    assert len(told(out, names[0], "^start")) == 2 and steps == [str(n) for n in range(1, 41)]
    assert "best by val_eer" in call(sys.executable, ROOT / "sweep.py", "--collect", out)
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 13 and all(",done," in row for row in rows[1:])
    # the same command has nothing left to submit
    assert "0 to run" in call(*sweep, *asked)
