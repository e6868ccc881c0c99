"""Draw the training curves of several runs over each other.

    python compare_curves.py exps/first exps/second --out curves.png --fields loss "q[0-3]" --smoothing 20

A run is its folder, its metrics.jsonl, or a train_log.txt as vq-voice-swap writes it. Runs of one grid: sweep.py.
"""

import re
from pathlib import Path

from engine.args import check_ranges, make_parser, parse
from engine.log import run_main

RANGES = {"smoothing": (1, None), "max_steps": (0, None)}


def make_flags():
    """Return the parser."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or their metrics.jsonl or train_log.txt")
    parser.add_argument("--out", default="curves.png", help="picture to write")
    parser.add_argument(
        "--fields", nargs="+", default=["loss"], metavar="NAME",
        help="scalars, a panel each, or regular expressions, of whose scalars the mean is drawn",
    )  # fmt: skip
    parser.add_argument("--smoothing", type=int, default=1, help="entries of the log that each point is the mean of")
    parser.add_argument("--max_steps", "--max_x", type=int, default=0, help="last optimiser step shown (0: all)")
    parser.add_argument("--min_y", type=float, default=None, help="least value shown (default: as the curves need)")
    parser.add_argument("--max_y", type=float, default=None, help="largest value shown (default: as the curves need)")
    return parser


def read_run(given: str, plots) -> list[dict]:
    """Return the records of a run.

    Raises:
        FileNotFoundError, ValueError: no such run, or nothing recorded.
    """
    path = Path(given)
    if path.is_dir():
        found = [path / name for name in ("metrics.jsonl", "train_log.txt") if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path}: no metrics.jsonl and no train_log.txt in this folder")
        path = found[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such run")
    return plots.read_metrics(path) if path.suffix == ".jsonl" else plots.read_log(path)


def main(argv=None):
    """Read the runs and draw."""
    args, _ = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    for field in args.fields:
        try:
            re.compile(field)
        except re.error as error:
            raise ValueError(f"--fields {field}: no regular expression ({error})") from None
    if args.min_y is not None and args.max_y is not None and args.min_y >= args.max_y:
        raise ValueError(f"--min_y {args.min_y:g} must lie below --max_y {args.max_y:g}")
    if not args.out.endswith(".png"):
        raise ValueError(f"--out {args.out}: the picture is a .png")
    from scoring import plots

    runs = {given: read_run(given, plots) for given in args.runs}
    limits = args.max_steps or None, args.min_y, args.max_y
    plots.compare_curves(args.out, runs, args.fields, args.smoothing, limits)
    print(f"written: {args.out}")


if __name__ == "__main__":
    run_main(main)
