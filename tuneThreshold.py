"""Error rates and thresholds of a score file: EER with interval, minDCF, min-Cllr, and on request actDCF, Cllr, plots.
Entry points: main(); for other programs tuneThresholdfromScore, ComputeErrorRates, ComputeMinDcf.
"""

import json
from pathlib import Path

import numpy as np

from engine.args import add_bool, make_parser, parse
from engine.log import make_folder, run_main
from scoring.intervals import bootstrap_interval
from scoring.metrics import (
    EER_METHODS,
    Counts,
    act_dcf,
    check_costs,
    cllr,
    corners,
    count_accepted,
    detection_cost,
    eer_of,
    min_cllr_of,
    min_dcf_of,
    rates,
)


def tuneThresholdfromScore(scores, labels, target_fa, target_fr=None):
    """Find thresholds of given error rates and the EER (method nearest).

    Args:
        target_fa, target_fr: wanted false acceptance and miss rates, fractions.

    Returns:
        a list of [threshold, fpr, fnr] at the point nearest to each target, misses first; the EER in percent; fpr and
        fnr (points,) at falling thresholds, inner points of straight runs dropped.
    """
    counts = count_accepted(scores, labels)
    points = rates(corners(counts))
    tuned = [_nearest_point(points, points[2], target) for target in (target_fr or [])]
    tuned += [_nearest_point(points, points[1], target) for target in target_fa]
    return tuned, eer_of(counts)[0], points[1], points[2]


def _nearest_point(points, rate: np.ndarray, target: float) -> list[float]:
    """Return [threshold, fpr, fnr] of the first point where `rate` is nearest to the target."""
    i = int(np.argmin(np.abs(rate - target)))
    return [float(array[i]) for array in points]


def ComputeErrorRates(scores, labels):
    """Return (fnrs, fprs, thresholds) for rising thresholds, where a trial is accepted when score > threshold.

    The first point accepts everything (threshold -inf); the others lie at the distinct scores.
    """
    counts = count_accepted(scores, labels)
    _, fpr, fnr = rates(counts)
    return fnr[::-1], fpr[::-1], np.concatenate([[-np.inf], counts.thresholds[::-1]])


def ComputeMinDcf(fnrs, fprs, thresholds, p_target, c_miss, c_fa):
    """Return the least normalised detection cost and its threshold from the points of ComputeErrorRates."""
    cost = detection_cost(np.asarray(fprs), np.asarray(fnrs), p_target, c_miss, c_fa)
    i = int(np.argmin(cost))
    return float(cost[i]), thresholds[i]


def arguments():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument(
        "scores", metavar="SCORES", help="lines `score file1 file2`; without --test_list lines `label score`"
    )
    parser.add_argument("--test_list", default="", help="trial list, lines `label file1 file2`, 1 = same speaker")
    parser.add_argument(
        "--eer_method", default="nearest", choices=EER_METHODS, help="how the EER is read off the operating points"
    )
    parser.add_argument(
        "--dcf_p_target", type=float, nargs="+", default=[0.05], help="prior probabilities of a target trial"
    )
    parser.add_argument("--dcf_c_miss", type=float, default=1.0, help="cost of a miss")
    parser.add_argument("--dcf_c_fa", type=float, default=1.0, help="cost of a false acceptance")
    add_bool(parser, "--llr", help="scores are natural log-likelihood ratios: print actDCF and Cllr too")
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        help="replicates of the 95 %% interval over speakers (first folder of each path); 0 = no interval",
    )
    parser.add_argument("--seed", type=int, default=10, help="seed of the bootstrap")
    parser.add_argument(
        "--target_fa",
        type=float,
        nargs="*",
        default=[],
        help="false acceptance rates to find thresholds for, fractions",
    )
    parser.add_argument(
        "--target_fr", type=float, nargs="*", default=[], help="miss rates to find thresholds for, fractions"
    )
    parser.add_argument("--save_path", default="", help="folder for det.png, histogram.png and report.json")
    return parser


def read_trials(args):
    """Return scores, labels and speaker sides (or None) of the trials."""
    # These bring torch and the audio readers, which --help does not need.
    from audio.lists import read_trial_list
    from scoring.trials import match_scores, read_labelled_scores, read_scores

    if not args.test_list:
        return *read_labelled_scores(args.scores), None
    trials = read_trial_list(args.test_list)
    if trials.labels is None:
        raise ValueError(f"{args.test_list}: the trials have no labels, so there are no error rates")
    scores = match_scores(read_scores(args.scores), trials.names, trials.pairs, args.test_list)
    return scores, trials.labels, trials.sides()


def main(argv=None):
    """Read the scores, print the report, and write it with plots where --save_path is given."""
    args, _ = parse(arguments(), argv)
    if args.bootstrap < 0 or not all(0 <= rate <= 1 for rate in args.target_fa + args.target_fr):
        raise ValueError("--bootstrap must not be negative; --target_fa and --target_fr are fractions from 0 to 1")
    for p_target in args.dcf_p_target:
        check_costs(p_target, args.dcf_c_miss, args.dcf_c_fa)
    scores, labels, sides = read_trials(args)
    if args.save_path:
        make_folder(args.save_path)
    try:
        report = make_report(args, scores, labels, sides)
    except ValueError as error:
        raise ValueError(f"{args.test_list or args.scores}: {error}") from None
    print_report(report)
    if args.save_path:
        save(args, scores, labels, report)


def make_report(args, scores, labels, sides) -> dict:
    """Return every figure as plain numbers; an interval is [low, high]."""
    counts = count_accepted(scores, labels)
    value, threshold = eer_of(counts, args.eer_method)
    report = {
        "scores": str(args.scores),
        "test_list": args.test_list or None,
        "targets": int(counts.targets[-1]),
        "impostors": int(counts.impostors[-1]),
        "eer": {"percent": value, "threshold": threshold, "method": args.eer_method},
        "dcf": [],
        "cllr": {"min_bits": min_cllr_of(counts)},
        "operating_points": [],
    }
    costs = [(p, args.dcf_c_miss, args.dcf_c_fa) for p in args.dcf_p_target]
    for p_target, c_miss, c_fa in costs:
        value, threshold = min_dcf_of(counts, p_target, c_miss, c_fa)
        entry = {"p_target": p_target, "c_miss": c_miss, "c_fa": c_fa, "min": value, "threshold": threshold}
        if args.llr:
            entry["actual"] = act_dcf(scores, labels, p_target, c_miss, c_fa)
        report["dcf"].append(entry)
    if args.llr:
        report["cllr"]["bits"] = cllr(scores, labels)
    points = rates(counts)
    for kind, rate, wanted in (("miss", points[2], args.target_fr), ("false acceptance", points[1], args.target_fa)):
        for target in wanted:
            threshold, fpr, fnr = _nearest_point(points, rate, target)
            entry = {"kind": kind, "target": target, "threshold": threshold, "fpr": fpr, "fnr": fnr}
            report["operating_points"].append(entry)
    if args.bootstrap:
        add_intervals(report, args, scores, labels, sides, costs)
    return report


def add_intervals(report: dict, args, scores, labels, sides, costs) -> None:
    """Add the bootstrap intervals of EER and minDCF to the report."""

    def measure(counts: Counts) -> np.ndarray:
        return np.array([eer_of(counts, args.eer_method)[0], *(min_dcf_of(counts, *cost)[0] for cost in costs)])

    interval = bootstrap_interval(scores, labels, sides, measure, args.bootstrap, args.seed)
    report["bootstrap"] = str(interval)
    for entry, low, high in zip([report["eer"], *report["dcf"]], interval.low, interval.high, strict=True):
        entry["interval"] = [float(low), float(high)]


def print_report(report: dict) -> None:
    """Print every figure of a report with its unit."""

    def within(entry: dict, digits: int) -> str:
        return " [{:.{d}f}, {:.{d}f}]".format(*entry["interval"], d=digits) if "interval" in entry else ""

    print(f"{report['scores']}: {report['targets']} target and {report['impostors']} impostor trials")
    if "bootstrap" in report:
        print(f"95 % intervals in brackets: {report['bootstrap']}")
    eer = report["eer"]
    print(f"EER {eer['percent']:.4f} %{within(eer, 4)}, method {eer['method']}, threshold {eer['threshold']:.8g}")
    for dcf in report["dcf"]:
        actual = f", actDCF {dcf['actual']:.5f}" if "actual" in dcf else ""
        costs = f"p_target {dcf['p_target']:g}, c_miss {dcf['c_miss']:g}, c_fa {dcf['c_fa']:g}"
        print(f"minDCF {dcf['min']:.5f}{within(dcf, 5)}{actual}, {costs}, threshold {dcf['threshold']:.8g}")
    actual = f", Cllr {report['cllr']['bits']:.5f} bits" if "bits" in report["cllr"] else ""
    print(f"min-Cllr {report['cllr']['min_bits']:.5f} bits{actual}")
    for point in report["operating_points"]:
        reached = f"false acceptance {100 * point['fpr']:.4f} %, miss {100 * point['fnr']:.4f} %"
        print(f"{point['kind']} rate {100 * point['target']:g} %: threshold {point['threshold']:.8g} ({reached})")


def save(args, scores, labels, report: dict) -> None:
    """Write det.png, histogram.png and report.json (infinite thresholds as null) into --save_path."""
    from scoring.plots import det_plot, score_histogram

    folder = Path(args.save_path)
    systems = {Path(args.scores).name: (scores, labels)}
    det_plot(folder / "det.png", systems, args.dcf_p_target[0], args.dcf_c_miss, args.dcf_c_fa)
    score_histogram(folder / "histogram.png", scores, labels, report["eer"]["threshold"])
    text = json.dumps(_finite(report), indent=2, allow_nan=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    print(f"written: {folder}/det.png, histogram.png, report.json")


def _finite(value):
    """Return a report with the numbers that JSON does not have replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    run_main(main)
