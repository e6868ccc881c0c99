"""A stand-in for a trainer, for tests of sweep.py: same flags towards a sweep, a result after --steps short waits.

Its state is a file of the steps done, so that a stopped one goes on; every start and step is told in its log.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import result
from engine.args import add_bool, make_parser, parse
from engine.log import run_main


def main():
    """Read the flags, wait, write result.json."""
    parser = make_parser("stand-in")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
    parser.add_argument("--max_steps", type=int, default=3, help="steps")
    parser.add_argument("--step_seconds", type=float, default=0.0, help="seconds of a step")
    parser.add_argument("--seed", type=int, default=1, help="seed")
    parser.add_argument("--tag", default="", help="label")
    parser.add_argument(
        "--ends", choices=("well", "badly", "silently", "diverged", "killed"), default="well", help="how"
    )
    add_bool(parser, "--dry_run", help="check the flags and stop")
    parser.add_argument("--check_configs", nargs="+", default=[], help="check these too")
    parser.add_argument("--save_path", default="", help="run folder")
    args, _ = parse(parser)
    for path in args.check_configs:
        parse(parser, ["--config", path])
    if args.dry_run:
        return 0
    stop = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.append(number))
    folder = Path(args.save_path)
    print("start", os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ["OMP_NUM_THREADS"], flush=True)
    state = folder / "steps"
    for step in range(int(state.read_text()) if state.exists() else 0, args.max_steps):
        time.sleep(args.step_seconds)
        state.write_text(str(step + 1))
        print("step", step + 1, flush=True)
        if stop:
            return 75
    if args.ends == "badly" and not (folder / "mended").exists():
        raise ValueError("the disk is full")
    if args.ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if args.ends in ("well", "badly", "diverged"):
        eer = abs(args.lr - 0.01) + 0.001 * args.seed + 1 / args.max_steps / 100
        metrics = {} if args.ends == "diverged" else {"val_eer": eer, "test_eer_original": 2 * eer}
        status = "diverged" if args.ends == "diverged" else "done"
        result.write(folder, status, metrics, step=args.max_steps, best_step=1, seconds=1.5, revision="abc")
    return 0


if __name__ == "__main__":
    run_main(main)
