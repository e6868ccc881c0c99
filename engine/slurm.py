"""The sbatch script of a sweep: one array job, task i runs line i of a list of runs.
Entry points: add_arguments(parser), script(...), submit(path).
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Limits of the flags, see engine.args.check_ranges.
RANGES = {
    "minutes": (1, None), "gpus": (0, None), "cpus": (1, None), "memory_gb": (1, None), "signal_seconds": (1, None),
}  # fmt: skip

BODY = """
cd {here} || exit 2
run=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {runs})
[ -n "$run" ] || exit 2
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"

# USR1 comes before the time limit: the run saves and queues itself again. TERM comes with scancel and with
# pre-emption: the run saves; after pre-emption Slurm queues it again, after scancel nobody does.
trap 'handled=1; kill -USR1 "$child" 2>/dev/null' USR1
trap 'handled=1; cancelled=1; kill -TERM "$child" 2>/dev/null' TERM
{command} "$run" &
child=$!
handled=1
while [ -n "$handled" ]; do
    handled=
    wait "$child"
    code=$?
done
if [ "$code" -eq 75 ] && [ -z "$cancelled" ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""


def add_arguments(parser):
    """Add what a Slurm job asks for; the defaults are those of the published runs."""
    group = parser.add_argument_group("Slurm")
    group.add_argument("--partition", default="", help="partition (default: the cluster's)")
    group.add_argument("--account", default="", help="account to charge (default: the cluster's)")
    group.add_argument("--gpus", type=int, default=1, help="GPUs per run (0: none)")
    group.add_argument("--cpus", type=int, default=6, help="cores per run")
    group.add_argument("--memory_gb", type=int, default=20, help="memory per run, GB")
    group.add_argument("--minutes", type=int, default=10080, help="time limit of a run, minutes")
    group.add_argument("--signal_seconds", type=int, default=120, help="seconds before the limit at which a run saves")
    group.add_argument("--exclude", default="", help="nodes not to be used")
    group.add_argument("--mail", default="", help="address to write to when the array ends or fails")


def script(args, folder: Path, count: int, here: Path, command: Sequence[str]) -> str:
    """Return the text of the sbatch script for the `count` runs in `folder`/runs.txt.

    Args:
        args: the flags of add_arguments, and array_parallelism.
        here: working folder of the runs.
        command: the command that runs one run, to which its folder is added.
    """
    options = {
        "job-name": re.sub(r"[^A-Za-z0-9._-]+", "_", folder.name) or "sweep",
        "array": f"0-{count - 1}%{args.array_parallelism}",
        "output": shlex.quote(f"{folder}/slurm/%a.txt"),
        "open-mode": "append",
        "requeue": None,
        "signal": f"B:USR1@{args.signal_seconds}",
        "time": args.minutes,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": args.cpus,
        "mem": f"{args.memory_gb}G",
        "gres": f"gpu:{args.gpus}" if args.gpus else "",
        "partition": args.partition,
        "account": args.account,
        "exclude": args.exclude,
        "mail-user": args.mail,
        "mail-type": "END,FAIL" if args.mail else "",
    }
    lines = [
        f"#SBATCH --{key}" if value is None else f"#SBATCH --{key}={value}"
        for key, value in options.items()
        if value != ""
    ]
    head = [
        "#!/bin/bash",
        f"# Task i runs line i (from 0) of {folder / 'runs.txt'}. Yours to edit; then: sbatch sweep.sbatch",
    ]
    body = BODY.format(
        here=shlex.quote(str(here)), runs=shlex.quote(str(folder / "runs.txt")), command=shlex.join(command)
    )
    return "\n".join([*head, *lines]) + "\n" + body


def submit(path: Path) -> str | None:
    """Submit a script; return the job number, or None where there is no sbatch.

    Raises:
        RuntimeError: sbatch refuses it.
    """
    if not shutil.which("sbatch"):
        return None
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"sbatch refuses {path}: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]
