"""Run a grid of trainings, on this machine or as a Slurm array, and collect their results in one table.

    python sweep.py --config configs/lowresource/xvector_tiny_few.yaml --set lr=1e-3,1e-2 --set seed=1,2
    python sweep.py --sweep configs/lowresource/sweeps/ecapa_full_step_exp.yaml --launcher slurm --array_parallelism 8

Each run is a process of trainSpeakerNet.py in a folder of its own below --out, with run.yaml (its settings), log.txt
and result.json. results.csv, summary.csv, summary.md and sweep.png stand in --out. The same command goes on after
whatever stopped it: finished runs are not repeated, failed ones with --retry_failed.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from engine import jobs, result, slurm, sweep_folder, sweep_table, sweeps
from engine.args import HelpFormatter, Parser, add_bool, check_ranges, convert, nearest
from engine.log import run_main

ROOT = Path(__file__).resolve().parent
RANGES = {"array_parallelism": (1, None), **slurm.RANGES}
# The exit code is this plus the number of failed runs; 2, 75 and 130 have their meaning for all scripts.
FAILED, MOST_COUNTED = 100, 20
# Flags of one invocation: not among the `options` of a sweep file.
INVOCATION = ("config", "set", "sweep", "collect", "task", "dry_run", "retry_failed", "resume", "help")

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser."""
    codes = (
        f"Exit codes: 0 all runs done, {FAILED} plus the number of failed runs (at most {FAILED + MOST_COUNTED}), 2 "
        "wrong input, 75 stopped by a signal: the same command goes on."
    )
    parser = Parser(
        description=__doc__.splitlines()[0], epilog=codes, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="config of a run; repeatable")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="flag of the trainer and its values; repeatable: all combinations, the last varies fastest; a value with "
        "a comma stands in double quotes",
    )
    parser.add_argument(
        "--sweep", default="", metavar="FILE", help="YAML of text, tag, configs, with, set, rows, options"
    )
    parser.add_argument("--tag", default="", help="label of the runs")
    parser.add_argument(
        "--out", default="", help="folder of the sweep (default: exps/sweep_ and the name of FILE, and the tag)"
    )
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local", help="where the runs run")
    parser.add_argument(
        "--array_parallelism", type=int, default=1, help="most runs at once; one alone gets all cores and GPUs"
    )
    parser.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: go on with the sweep in --out; never: refuse a folder that holds one",
    )
    add_bool(parser, "--retry_failed", help="run failed runs again, from their last checkpoint")
    add_bool(parser, "--dry_run", help="check everything, list the runs and stop")
    parser.add_argument(
        "--collect", default="", metavar="DIR", help="write the tables and the plot of a sweep and stop"
    )
    add_bool(parser, "--summary", help="print mean, spread and number over seeds for each setting")
    parser.add_argument(
        "--sort_by", default="", help="metric that orders the tables (default: val_eer, else a test EER)"
    )
    parser.add_argument(
        "--script",
        default=str(ROOT / "trainSpeakerNet.py"),
        help="trainer: takes --config, --set save_path=DIR, --dry_run and --check_configs, writes DIR/result.json",
    )
    parser.add_argument(
        "--task", default="", metavar="DIR", help="run the one run of this folder, as a Slurm task does"
    )
    add_bool(parser, "--submit", default=True, help="slurm: submit the script and not only write it")
    slurm.add_arguments(parser)
    return parser


def read_flags() -> tuple:
    """Return the flags, over those that the sweep file sets, and the parts of that file."""
    parser = make_flags()
    args = parser.parse_args()
    if not args.sweep:
        return args, dict.fromkeys(("text", "tag"), "") | {"configs": [], "with": {}, "set": {}, "rows": []}
    parts = sweeps.read_sweep(args.sweep)
    known = {a.dest: a for a in parser._actions if a.dest not in INVOCATION}
    for key, value in parts["options"].items():
        if key not in known:
            raise ValueError(f"{args.sweep}: options: unknown flag {key}{nearest(key, list(known))}")
        parser.set_defaults(**{key: convert(known[key], value, f"{args.sweep}: options: {key}")})
    return parser.parse_args(), parts


def runs_of(args, parts) -> list[sweeps.Run]:
    """Return the runs: the command line's configs replace the file's, its --set the file's values of that key."""
    configs = args.config or parts["configs"]
    if not configs:
        raise ValueError("nothing to run: give --config or --sweep (or --collect)")
    given = {}
    for text in args.set:
        key, values = sweeps.split_set(text)
        if key in given:
            raise ValueError(f"--set {key} is given twice: write its values as one list")
        given[key] = values
    common = {key: value for key, value in parts["with"].items() if key not in given}
    return sweeps.expand(configs, {**parts["set"], **given}, parts["rows"], common, args.tag or parts["tag"])


def check_flags(script: str, runs):
    """Let the trainer check the settings of all runs, in one process, before any of them starts.

    Raises:
        ValueError: a key is no flag of it, or a value not of the flag's kind; the message names the run.
    """
    if not Path(script).is_file():
        raise FileNotFoundError(f"--script {script}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{run.name}.yaml" for run in runs]
        for path, run in zip(paths, runs):
            path.write_text(yaml.safe_dump(run.settings, sort_keys=False), encoding="utf-8")
        command = [sys.executable, script, "--dry_run", "--config", str(paths[0])]
        command += ["--check_configs", *map(str, paths[1:])] if paths[1:] else []
        done = subprocess.run(command, capture_output=True, text=True)
        text = re.sub(re.escape(folder) + r"/(\S+)\.yaml", r"run \1", done.stdout + done.stderr)
        lines = [line for line in text.splitlines() if line.strip()]
        if done.returncode:
            raise ValueError((lines or ["the trainer refuses the settings"])[-1].removeprefix("error: "))
        for line in dict.fromkeys(line for line in lines if line.startswith("warning: ")):
            print(line)


# ---------------------------------------------------------------- running


def main():
    """Read the flags, plan the runs, start what is not finished, collect."""
    args, parts = read_flags()
    check_ranges(args, RANGES)
    if args.collect:
        tables(Path(args.collect), args)
        return 0
    if args.task:
        return run_task(args)
    runs = runs_of(args, parts)
    label = args.tag or parts["tag"]
    name = Path(args.sweep or runs[0].config).stem + (f"_{label}" if label and not args.sweep else "")
    folder = Path(args.out or Path("exps") / f"sweep_{sweeps.plain_name(name)}").absolute()
    if sweep_folder.read_plan(folder) and args.resume == "never":
        raise ValueError(f"--resume never: --out {folder} already holds a sweep; choose another")
    check_flags(args.script, runs)
    if args.dry_run:
        print("\n".join([f"{len(runs)} runs:", *(run.name for run in runs)]))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    lock = sweep_folder.take_lock(folder / sweep_folder.LOCK)
    if lock is None:
        raise ValueError(f"--out {folder}: another sweep.py is at work there")
    try:
        runs = sweep_folder.plan(folder, runs, parts["text"])
        return launch(args, folder, [folder / run.name for run in runs])
    finally:
        os.close(lock)


def launch(args, folder: Path, runs: list[Path]) -> int:
    """Start the runs that are not finished; return the exit code."""
    states = {run: sweep_folder.state_of(run) for run in runs}
    to_do = [run for run in runs if states[run] in ("waiting", "unfinished")]
    if args.retry_failed:
        to_do += [run for run in runs if states[run] == "failed"]
    counted = ", ".join(f"{number} {state}" for state, number in sorted(Counter(states.values()).items()))
    print(f"{len(runs)} runs ({counted}), {len(to_do)} to run; {folder}", flush=True)
    if args.launcher == "slurm":
        if to_do:
            write_array(args, folder, to_do)
        return 0

    def say(run, state):
        error = f": {result.read(run)['error']}" if state == "failed" else ""
        print(f"{run.name}: {state}{error}", flush=True)
        if state in ("done", "diverged", "failed"):
            sweep_table.write_csv(folder / "results.csv", sweep_table.collect(folder).rows)

    stopped = jobs.run_all(to_do, lambda run: command_of(args.script, run), args.array_parallelism, say)
    tables(folder, args)
    states = Counter(sweep_folder.state_of(run) for run in runs)
    for run in runs:
        if sweep_folder.state_of(run) == "failed":
            print(f"failed: {run.name}: {result.read(run)['error']}; --retry_failed runs it again")
    if stopped or states["unfinished"] or states["waiting"]:
        print("stopped; the same command goes on from there")
        return jobs.INTERRUPTED
    return FAILED + min(states["failed"], MOST_COUNTED) if states["failed"] else 0


def command_of(script: str, folder: Path) -> list[str]:
    """Return the command that runs the run of a folder."""
    settings = folder / sweep_folder.SETTINGS
    return [sys.executable, script, "--config", str(settings), "--set", f"save_path={folder}"]


def run_task(args) -> int:
    """Run the one run of --task unless it is finished; return 0, 75 where it was interrupted, or that it failed."""
    folder = Path(args.task).absolute()
    if not (folder / sweep_folder.SETTINGS).is_file():
        raise FileNotFoundError(f"--task {folder}: no run there ({sweep_folder.SETTINGS} is missing)")
    if sweep_folder.state_of(folder) not in ("done", "diverged"):
        jobs.run_all([folder], lambda run: command_of(args.script, run), 1, lambda run, state: print(run.name, state))
    state = sweep_folder.state_of(folder)
    return {"failed": FAILED + 1, "unfinished": jobs.INTERRUPTED}.get(state, 0)


def write_array(args, folder: Path, runs: list[Path]):
    """Write the list of runs and the sbatch script, and submit it where there is a Slurm."""
    (folder / "slurm").mkdir(exist_ok=True)
    sweep_folder.write_text(folder / "runs.txt", "".join(f"{run}\n" for run in runs))
    script = str(Path(args.script).absolute())
    command = [sys.executable, str(ROOT / "sweep.py"), "--script", script, "--task"]
    path = folder / "sweep.sbatch"
    sweep_folder.write_text(path, slurm.script(args, folder, len(runs), Path.cwd(), command))
    number = slurm.submit(path) if args.submit else None
    if number:
        print(f"submitted as array job {number}")
    else:
        why = "no sbatch on this machine" if args.submit else "not submitted"
        print(f"{why}: the script is written; on the cluster run: sbatch {path}")
    print(f"when runs are done: python sweep.py --collect {folder}")


# ---------------------------------------------------------------- results


def tables(folder: Path, args):
    """Write results.csv, summary.csv, summary.md and sweep.png of a sweep's folder; print the best run."""
    table = sweep_table.collect(folder, args.sort_by)
    sweep_table.write_csv(folder / "results.csv", table.rows)
    sweep_table.write_csv(folder / "summary.csv", sweep_table.summarise(table))
    text = sweep_table.markdown(table, sweep_folder.read_plan(folder).get("text", ""))
    sweep_folder.write_text(folder / "summary.md", text)
    panels = {
        "learning rate": sweep_table.curves(table, "lr"),
        "optimiser steps": sweep_table.curves(table, "max_steps"),
    }
    panels = {label: lines for label, lines in panels.items() if lines}
    if panels:
        from scoring.sweep_plots import sweep_plot  # matplotlib takes a second, which most calls can do without

        sweep_plot(folder / "sweep.png", panels, table.metric)
    if args.summary:
        print(text, end="")
    best = next((row for row in table.rows if row["best"]), None)
    if best:
        print(f"best by {table.metric}: {best['run']}, {best[table.metric]:.4f}")
    print(f"{folder / 'results.csv'}")


if __name__ == "__main__":
    run_main(main)
