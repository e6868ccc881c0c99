"""What is said of the scores of a trial list: error rates, interval, protocol line; score file, DET curve, histogram.
Entry points: rates, figures, report; RANGES and add_arguments of the flags they read.
"""

from pathlib import Path

import numpy as np

from scoring import intervals, metrics, plots, trials

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "dcf_p_target": (1e-9, 1 - 1e-9), "dcf_c_miss": (1e-9, None), "dcf_c_fa": (1e-9, None), "bootstrap": (0, None),
}  # fmt: skip
# Priors of a target at which a result's minDCF is given, costs 1, with the names of the entries.
PRIORS = {"mindcf05": 0.05, "mindcf01": 0.01}


def add_arguments(group):
    """Add the flags that say how error rates are read off."""
    group.add_argument("--eer_method", choices=metrics.EER_METHODS, default="nearest", help="how the EER is read off")
    group.add_argument("--dcf_p_target", type=float, default=0.05, help="minDCF: prior of a target")
    group.add_argument("--dcf_c_miss", type=float, default=1.0, help="minDCF: cost of a miss")
    group.add_argument("--dcf_c_fa", type=float, default=1.0, help="minDCF: cost of a false alarm")
    group.add_argument("--bootstrap", type=int, default=1000, help="draws of speakers for the 95 %% interval (0: none)")


def rates(scores: np.ndarray, labels: np.ndarray, args) -> dict[str, float]:
    """Return {"veer": EER in percent, "mindcf": minDCF} of scores with labels."""
    counts = metrics.count_accepted(scores, labels)
    dcf, _ = metrics.min_dcf_of(counts, args.dcf_p_target, args.dcf_c_miss, args.dcf_c_fa)
    return {"veer": float(metrics.eer_of(counts, args.eer_method)[0]), "mindcf": float(dcf)}


def figures(scores: np.ndarray, labels: np.ndarray, eer_method: str, name: str) -> dict[str, float]:
    """Return the entries of a list called `name` in result.json: EER as a fraction, minDCF at PRIORS."""
    counts = metrics.count_accepted(scores, labels)
    values = {f"test_eer_{name}": metrics.eer_of(counts, eer_method)[0] / 100}
    return values | {f"test_{key}_{name}": metrics.min_dcf_of(counts, prior)[0] for key, prior in PRIORS.items()}


def report(
    scores: np.ndarray, trial_list, args, folder: Path, normalise: bool, log, suffix: str = ""
) -> dict[str, float]:
    """Print EER, minDCF, interval and protocol of scores on a list, write the scores file, DET curve and histogram.

    A list without labels gives the scores file only. `suffix` is added to the names of the files.

    Args:
        trial_list: an audio.lists.TrialList.
        log: its method line(text) prints and keeps a line.
    """
    stem = Path(trial_list.name).stem + suffix
    target = Path(args.scores_file) if args.scores_file and not suffix else folder / "result" / f"scores_{stem}.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    trials.write_scores(target, scores, trial_list.pairs, trial_list.names)
    log.line(trial_list.describe())
    if trial_list.labels is None:
        log.line(f"the list has no labels: no error rates; scores in {target}")
        return {}
    values = rates(scores, trial_list.labels, args)
    log.line(f"EER {values['veer']:2.4f} MinDCF {values['mindcf']:.5f}")
    if args.bootstrap:
        interval = intervals.bootstrap_interval(
            scores,
            trial_list.labels,
            trial_list.sides(),
            metric=lambda counts: metrics.eer_of(counts, args.eer_method)[0],
            replicates=args.bootstrap,
            seed=args.seed,
        )
        log.line(f"EER 95 % interval {interval.low:.2f} to {interval.high:.2f} % ({interval})")
        values |= {"eer_low": float(interval.low), "eer_high": float(interval.high)}
    line = trials.protocol_line(
        f"{Path(trial_list.name).name} (sha256 {trial_list.hash})",
        len(scores),
        len(trial_list.names),
        args.num_eval,
        args.eval_frames,
        args.score_mode,
        normalise,
        eer_method=args.eer_method,
    )
    costs = f"minDCF p_target {args.dcf_p_target:g}, c_miss {args.dcf_c_miss:g}, c_fa {args.dcf_c_fa:g}"
    log.line(f"{line}, {costs}, float32")
    det, histogram = folder / "result" / f"det_{stem}.png", folder / "result" / f"histogram_{stem}.png"
    plots.det_plot(det, {stem: (scores, trial_list.labels)}, args.dcf_p_target, args.dcf_c_miss, args.dcf_c_fa)
    plots.score_histogram(histogram, scores, trial_list.labels)
    log.line(f"scores {target}; DET curve {det}; histogram {histogram}")
    return values
