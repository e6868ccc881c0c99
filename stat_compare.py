"""Compare two statistics files of stat_generate.py: Frechet score, how sure it is, and both class scores.
Entry point: main().
"""

import json
from pathlib import Path

from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import make_folder, run_main

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {"bootstrap": (0, 10**6), "splits": (0, 1000), "neighbours": (1, 1000)}


def make_flags():
    """Return the parser."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("stat_1", metavar="STAT_1.npz", help="statistics of generated speech, say")
    parser.add_argument("stat_2", metavar="STAT_2.npz", help="statistics to compare with, of real speech for example")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        help="replicates over samples for the 95 %% intervals, of files with features or probabilities (0: none)",
    )
    parser.add_argument(
        "--splits",
        type=int,
        default=2,
        help="random splits into halves for the bias-corrected Frechet score, of files with features (0: none)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap and the splits")
    add_bool(
        parser,
        "--precision_recall",
        help="share of STAT_1 that lies among STAT_2 (precision) and the reverse (recall), of files with features",
    )
    parser.add_argument("--neighbours", type=int, default=3, help="of --precision_recall, how far a sample reaches")
    add_bool(parser, "--allow_other_classifier", help="compare statistics by different classifiers all the same")
    parser.add_argument("--save_path", default="", help="folder for report.json")
    return parser


def compare(args, one, other) -> dict:
    """Return every figure as plain numbers; an interval is [low, high]."""
    from scoring import frechet

    sides = [(found.mean, found.cov, found.features) for found in (one, other)]
    report = {"frechet_score": frechet.frechet_measured(*sides, args.bootstrap, args.splits, args.seed)._asdict()}
    report["class_scores"] = [
        None
        if found.probs is None
        else frechet.class_score_measured(found.log_probs(), args.bootstrap, args.seed)._asdict()
        for found in (one, other)
    ]
    if args.precision_recall:
        pair = frechet.precision_recall(other.features, one.features, args.neighbours)
        report["precision"], report["recall"] = pair
    return report


def print_report(report: dict, one, other):
    """Print every figure of a report."""

    def within(interval, digits):
        return " [{:.{d}f}, {:.{d}f}]".format(*interval, d=digits) if interval else ""

    for found, score in zip((one, other), report["class_scores"]):
        said = f", class score {score['value']:.4f}{within(score['interval'], 4)}" if score else ""
        print(f"{found.describe()}{said}")
    score = report["frechet_score"]
    print(f"Frechet score: {score['value']:.6g}{within(score['interval'], 4)}")
    if score["corrected"] is not None:
        print(
            f"bias-corrected Frechet score: {score['corrected']:.6g}{within(score['corrected_interval'], 4)}, "
            f"extrapolated in 1 / samples from {report['splits']} splits into halves"
        )
    if "precision" in report:
        print(f"precision {report['precision']:.4f}, recall {report['recall']:.4f}")


def main(argv=None):
    """Read both files, print the scores, and write report.json where --save_path is given."""
    args, given = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    from scoring.embeddings import whole_file
    from scoring.feature_statistics import cautions, check_same_judge, read_statistics

    one, other = read_statistics(args.stat_1), read_statistics(args.stat_2)
    check_same_judge(one, other, args.allow_other_classifier)
    without = next((found.path for found in (one, other) if found.features is None), None)
    if args.precision_recall and without:
        raise ValueError(f"--precision_recall: {without} holds no features; stat_generate.py stores them")
    if "neighbours" in given and not args.precision_recall:
        raise ValueError("--neighbours is for --precision_recall")
    if args.save_path:
        make_folder(args.save_path)
    report = {"stat_1": args.stat_1, "stat_2": args.stat_2, "splits": args.splits, **compare(args, one, other)}
    report["cautions"] = cautions(one, other)
    print_report(report, one, other)
    for line in report["cautions"]:
        print(line)
    if args.save_path:
        path = Path(args.save_path) / "report.json"
        with whole_file(path) as file:
            file.write(json.dumps(report, indent=2).encode() + b"\n")
        print(f"written: {path}")


if __name__ == "__main__":
    run_main(main)
