"""Score a list of trials from embeddings: centring, LDA, PLDA, cohort normalisation, calibration, fusion.

    python score.py --embeddings E.npz --test_list T --save_path exps/test --cohort C.npz --cohort_list L \
        --score_norm as-norm --calibrate_list DEV --calibrate_embeddings D.npz

One table of error rates after each step, score files, report.json, calibration.json and plots go to --save_path.
"""

import json
import os
from pathlib import Path

import numpy as np

from audio import lists
from engine import checkpoint
from engine.args import add_bool, check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from scoring import calibration, metrics, norms, plda, plots, steps, subgroups, summary, trials
from scoring.embeddings import Table, read_table, speaker_means

RANGES = {
    "cohort_size": (2, None), "lda": (0, None), "bootstrap": (0, None), "calibrate_prior": (1e-9, 1 - 1e-9),
    "llr_prior": (1e-9, 1 - 1e-9),
}  # fmt: skip

# ---------------------------------------------------------------- flags


def make_flags():
    """Return the parser of the command."""
    parser = make_parser(__doc__.splitlines()[0])
    given = parser.add_argument_group("input and output")
    given.add_argument("--embeddings", default="", metavar="FILE.npz", help="table of extract_embeddings.py")
    given.add_argument("--test_list", default="", help="trials, lines `label path path` (1: same speaker)")
    given.add_argument("--save_path", default="exps/scores", help="folder for scores, report and plots")
    made = parser.add_argument_group("scores")
    made.add_argument("--score", choices=("cosine", "plda"), default="cosine", help="how two embeddings are compared")
    made.add_argument("--mean_from", default="", help="subtract the mean of this table or of a checkpoint's cohort")
    made.add_argument("--lda", type=int, default=0, help="project to so many directions that tell speakers (0: off)")
    add_bool(made, "--whiten", help="make the covariance within speakers the identity")
    made.add_argument("--backend_table", default="", help="embeddings to fit --lda, --whiten and --score plda on")
    made.add_argument("--backend_list", default="", help="the speakers of --backend_table, lines `speaker path`")
    made.add_argument("--backend", default="", metavar="FILE.npz", help="use a backend that score.py fitted before")
    made.add_argument("--score_norm", choices=norms.METHODS, default="none", help="normalise scores by a cohort")
    made.add_argument("--cohort", default="", help="table of the cohort, or checkpoint with enrolled training speakers")
    made.add_argument(
        "--cohort_list", default="", help="lines `speaker path`: members are the means of speakers with 2 files or more"
    )
    made.add_argument(
        "--cohort_size", type=int, default=None, help="members nearest to a file (default: 300 of as-norm, else all)"
    )
    fitted = parser.add_argument_group("calibration and fusion")
    fitted.add_argument("--calibrate_list", default="", help="trials to calibrate on, other than --test_list")
    fitted.add_argument("--calibrate_embeddings", default="", help="their embeddings (default: --embeddings)")
    fitted.add_argument("--calibration", default="", metavar="FILE.json", help="apply a calibration fitted before")
    add_bool(fitted, "--allow_same_list", help="calibrate on --test_list itself: its Cllr then flatters")
    fitted.add_argument("--calibrate_prior", type=float, default=0.5, help="prior of a target the fit is weighted to")
    fitted.add_argument(
        "--quality", default="", help="quality measures beside the score, of seconds,magnitude,cohort (empty: none)"
    )
    fitted.add_argument("--fuse", nargs="*", default=[], metavar="SCORES", help="score files of further systems")
    fitted.add_argument(
        "--calibrate_fuse",
        nargs="*",
        default=[],
        metavar="SCORES",
        help="theirs on --calibrate_list, in the same order",
    )
    fitted.add_argument(
        "--llr_prior", type=float, default=None, help="write probabilities of `same speaker` at this prior too"
    )
    told = parser.add_argument_group("report")
    told.add_argument("--eer_method", choices=metrics.EER_METHODS, default="nearest", help="how the EER is read off")
    told.add_argument("--bootstrap", type=int, default=1000, help="draws of speakers for 95 %% intervals (0: none)")
    told.add_argument("--seed", type=int, default=10, help="seed of the bootstrap")
    told.add_argument("--speakers", default="", help="CSV with a column `speaker` and others")
    told.add_argument("--subgroups", default="", help="columns of --speakers to report by, e.g. gender,age:16:30")
    told.add_argument(
        "--short_embeddings", nargs="*", default=[], metavar="SECONDS=FILE", help="tables of the first seconds of files"
    )
    return parser


def main(argv=None):
    """Score, calibrate, report."""
    args, _ = parse(make_flags(), argv)
    check_ranges(args, RANGES)
    check_together(args)
    test = read_list(args.test_list)
    table = read_table(args.embeddings)
    tools, cohort_text = make_tools(args, table, test)
    short = {seconds: read_table(path).take(test.names) for seconds, path in parse_short(args.short_embeddings)}
    speakers = subgroups.read_speakers(args.speakers) if args.speakers else {}
    chosen = subgroups.parse_groups(args.subgroups, speakers) if args.subgroups else {}
    fitted = calibrate(args, tools, table, test)
    folder = Path(args.save_path)
    make_folder(folder)

    print(table.describe())
    print(test.describe())
    made, inputs = score(args, table.take(test.names), test, tools, fitted, args.fuse)
    for name, scores in made.items():
        trials.write_scores(folder / f"scores_{name}.txt", scores, test.pairs, test.names)
    if tools.backend is not None and not args.backend:
        plda.write_backend(folder / "backend.npz", tools.backend)
    if fitted is not None:
        print(fitted.describe())
        calibration.write_calibration(folder / "calibration.json", fitted)
    if args.llr_prior is not None:
        probabilities = calibration.probability(made["calibrated"], args.llr_prior)
        trials.write_scores(folder / "probabilities.txt", probabilities, test.pairs, test.names)
        print(f"probabilities at a prior of {args.llr_prior:g}: {folder / 'probabilities.txt'}")
    if test.labels is None:
        print(f"{args.test_list} has no labels: no error rates; scores in {folder}")
        return
    report(args, table, test, made, tools, cohort_text, fitted, short, speakers, chosen, folder)


def check_together(args):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    calibrates = args.calibrate_list or args.calibration
    fits = args.lda or args.whiten or args.score == "plda"
    wrong = [
        (not args.embeddings, "--embeddings is required: a table of extract_embeddings.py"),
        (not args.test_list, "--test_list is required"),
        (args.lda and args.whiten, "--lda whitens already: leave --whiten out"),
        (args.backend and (args.lda or args.whiten), "--backend says how to project: leave --lda and --whiten out"),
        (args.backend and args.backend_table, "give either --backend or --backend_table"),
        (bool(args.backend_table) != bool(args.backend_list), "--backend_table and --backend_list need each other"),
        (args.backend_table and not fits, "--backend_table is for --lda, --whiten or --score plda"),
        (fits and not (args.backend or args.backend_table),
         "--lda, --whiten and --score plda need --backend_table with --backend_list (or --backend)"),
        (args.score_norm != "none" and not args.cohort, f"--score_norm {args.score_norm} needs --cohort"),
        (args.cohort_list and not args.cohort, "--cohort_list needs --cohort, the table of its files"),
        (args.calibrate_list and args.calibration, "give either --calibrate_list or --calibration"),
        (args.calibrate_embeddings and not args.calibrate_list, "--calibrate_embeddings needs --calibrate_list"),
        (args.quality and not calibrates, "--quality needs --calibrate_list or --calibration"),
        (args.fuse and not calibrates, "--fuse needs --calibrate_list with --calibrate_fuse, or --calibration"),
        (args.calibrate_list and len(args.fuse) != len(args.calibrate_fuse),
         f"--fuse names {len(args.fuse)} files, --calibrate_fuse {len(args.calibrate_fuse)}: one each is needed"),
        (args.calibrate_fuse and not args.calibrate_list, "--calibrate_fuse needs --calibrate_list"),
        (args.llr_prior is not None and not calibrates, "--llr_prior needs --calibrate_list or --calibration"),
        (args.subgroups and not args.speakers, "--subgroups needs --speakers"),
        (args.speakers and not args.subgroups, "--speakers needs --subgroups: which of its columns?"),
    ]  # fmt: skip
    for holds, message in wrong:
        if holds:
            raise ValueError(message)
    unknown = [name for name in quality_names(args) if name not in calibration.MEASURES]
    if unknown:
        raise ValueError(f"--quality {unknown[0]}: one of {', '.join(calibration.MEASURES)}")
    if "cohort" in quality_names(args) and not args.cohort:
        raise ValueError("--quality cohort needs --cohort")


def quality_names(args) -> list[str]:
    """Return the measures of --quality."""
    return [name.strip() for name in args.quality.split(",")] if args.quality else []


def parse_short(words: list[str]) -> list[tuple[float, str]]:
    """Read --short_embeddings 2=a.npz 5=b.npz as [(seconds, path)], rising."""
    found = []
    for word in words:
        seconds, equals, path = word.partition("=")
        try:
            found.append((float(seconds), path))
        except ValueError:
            equals = ""
        if not equals or not path or found[-1][0] <= 0:
            raise ValueError(f"--short_embeddings {word}: write seconds=table, e.g. 2=exps/test_2s.npz")
    return sorted(found)


def read_list(path: str) -> lists.TrialList:
    """Read a trial list that error rates can be had from, or one without labels."""
    found = lists.read_trial_list(path)
    lists.check_trials(found)
    return found


# ---------------------------------------------------------------- what scores are made with


def make_tools(args, table: Table, test: lists.TrialList) -> tuple[steps.Tools, str]:
    """Return what scores are made with, and the cohort in words for the protocol line."""
    mean = members(args.mean_from, "")[0].mean(0, dtype=np.float64) if args.mean_from else None
    backend = fit_backend(args)
    if not args.cohort:
        return steps.Tools(mean, backend, args.score == "plda"), "none"
    cohort, speakers = members(args.cohort, args.cohort_list)
    shared = sorted({lists.speaker_of(name) for name in test.names} & set(speakers))
    if shared:
        print(f"warning: {len(shared)} speakers of the cohort are in {args.test_list}, e.g. {shared[0]}")
    top = norms.cohort_size(args.score_norm, args.cohort_size, len(cohort))
    if not top and args.score_norm in ("as-norm", "as-norm2"):
        print(
            f"the cohort has {len(cohort)} members, no more than are to be taken: {args.score_norm} takes all (s-norm)"
        )
    source = f"{Path(args.cohort).name}{f' by {Path(args.cohort_list).name}' if args.cohort_list else ''}"
    text = f"{len(cohort)} {'speakers' if speakers else 'recordings'} of {source}, {f'top {top}' if top else 'all'}"
    used = text if args.score_norm == "none" else f"{text}, {args.score_norm}"
    return steps.Tools(mean, backend, args.score == "plda", cohort, args.score_norm, top), used


def members(path: str, train_list: str) -> tuple[np.ndarray, list[str]]:
    """Return the members (members, dim) of a cohort and their speakers: of a checkpoint; of a table its rows, or with a
    train list the means of its speakers of two files or more.

    Raises:
        ValueError: the checkpoint holds no cohort, or fewer than two members are left.
    """
    if not path.endswith(".npz"):
        payload = checkpoint.read(path)
        meta = payload.get("meta") if isinstance(payload, dict) else None
        cohort = meta.get("cohort") if isinstance(meta, dict) else None
        if not isinstance(cohort, dict):
            raise ValueError(f"{path}: holds no cohort; train with --enroll_training_data, or give a table (.npz)")
        return cohort["embeddings"].numpy(), list(cohort["speakers"])
    table = read_table(path)
    if not train_list:
        return table.vectors, []
    listed = lists.read_train_list(train_list)
    names = [listed.paths[i] for i in range(len(listed.paths))]
    means, kept = speaker_means(table.vectors[table.rows(names)], listed.labels)
    if len(kept) < len(listed.speakers):
        print(f"{train_list}: {len(listed.speakers) - len(kept)} speakers with a single file are no cohort members")
    return means, [listed.speakers[i] for i in kept]


def fit_backend(args) -> plda.Backend | None:
    """Return the backend that the flags ask for, fitted or read."""
    if args.backend:
        backend = plda.read_backend(args.backend)
        if args.score == "plda" and not len(backend.between):
            raise ValueError(f"{args.backend} holds no PLDA: fit one with --score plda --backend_table")
        return backend
    if not args.backend_table:
        return None
    listed, table = lists.read_train_list(args.backend_list), read_table(args.backend_table)
    rows = table.rows([listed.paths[i] for i in range(len(listed.paths))])
    kind = "lda" if args.lda else "whitened" if args.whiten or args.score == "plda" else "centred"
    return plda.fit(table.vectors[rows], listed.labels, kind, args.lda, args.score == "plda")


# ---------------------------------------------------------------- scores and calibration


def score(args, table: Table, listed, tools, fitted, fuse: list[str]):
    """Return {step: scores} of a list, and names and columns of the inputs of its calibration.

    Args:
        table: of the files of the list, in its order.
        fitted: a Calibration to apply as the last step, or None.
        fuse: score files of further systems.
    """
    made, cohort_mean = steps.score_steps(table.vectors, listed.pairs, tools)
    last = list(made)[-1]
    names, columns = [last], [made[last]]
    for number, path in enumerate(fuse, 1):
        names.append(f"system {number + 1}")
        columns.append(trials.match_scores(trials.read_scores(path), listed.names, listed.pairs, listed.name))
    found = steps.measures(quality_names(args), table, cohort_mean)
    quality, terms = calibration.quality_terms(found, listed.pairs)
    inputs = names + quality, np.column_stack([*columns, terms])
    if fitted is not None:
        if fitted.inputs != inputs[0]:
            raise ValueError(
                f"the calibration is of {', '.join(fitted.inputs)}; these flags give {', '.join(inputs[0])}"
            )
        made["calibrated"] = fitted.apply(inputs[1])
    return made, inputs


def calibrate(args, tools, table: Table, test) -> calibration.Calibration | None:
    """Return the calibration that the flags ask for, fitted on --calibrate_list or read, or None.

    Raises:
        ValueError: it was or would be fitted on the test list, or on a list without labels.
    """
    if args.calibration:
        fitted = calibration.read_calibration(args.calibration)
        calibration.check_other_list(fitted.fitted_on.get("hash"), test.hash, args.test_list, args.allow_same_list)
        return fitted
    if not args.calibrate_list:
        return None
    listed = read_list(args.calibrate_list)
    calibration.check_other_list(listed.hash, test.hash, args.test_list, args.allow_same_list)
    if listed.labels is None:
        raise ValueError(f"{args.calibrate_list} has no labels: nothing can be calibrated on it")
    shared = {lists.speaker_of(name) for name in listed.names} & {lists.speaker_of(name) for name in test.names}
    if shared - {None} and listed.hash != test.hash:
        print(f"warning: {len(shared)} speakers are in both {args.calibrate_list} and {args.test_list}")
    own = read_table(args.calibrate_embeddings) if args.calibrate_embeddings else table
    _, (names, columns) = score(args, own.take(listed.names), listed, tools, None, args.calibrate_fuse)
    about = {"list": Path(args.calibrate_list).name, "hash": listed.hash, "checkpoint": own.meta.get("sha256")}
    fitted = calibration.fit(columns, listed.labels, names, args.calibrate_prior, about)
    turned = [name for name, scale in zip(names, fitted.scales) if scale < 0 and not name.endswith(("mean", "rence"))]
    if turned:
        print(f"warning: {turned[0]} has a negative scale: on {args.calibrate_list} it does not tell speakers apart")
    return fitted


# ---------------------------------------------------------------- report


def report(args, table, test, made, tools, cohort_text, fitted, short, speakers, chosen, folder: Path):
    """Print and write the tables and plots of a labelled list."""
    sides, told = test.sides(), (args.eer_method, args.bootstrap, args.seed)
    rows = [{"step": step, **summary.figures(scores, test.labels, sides, *told)} for step, scores in made.items()]
    text = summary.markdown(rows, ("step",))
    print(f"\n{text}\n")
    if args.bootstrap:
        unit = "speakers" if sides is not None else "trials (the paths name no speakers)"
        print(f"95 % intervals: {args.bootstrap} bootstrap replicates over {unit}")
    print("Cllr in bits takes scores for natural-log likelihood ratios, which before PLDA or calibration they are not")
    options = table.meta.get("options", {})
    crops, frames = options.get("num_crops", 1), round(100 * options.get("crop_seconds", 0))
    line = trials.protocol_line(
        f"{Path(args.test_list).name} (sha256 {test.hash})", len(test.pairs), len(test.names), crops, frames,
        args.score, True, cohort_text, args.eer_method,
    )  # fmt: skip
    print(line)
    summary.write_rows(folder / "table.csv", rows, ("step",))
    pages, values = [f"{line}\n\n{text}\n"], {"protocol": line, "embeddings": table.meta, "steps": rows}
    if fitted is not None:
        values["calibration"] = {**fitted.fitted_on, "formula": fitted.describe()}
    plots.det_plot(folder / "det.png", {step: (scores, test.labels) for step, scores in made.items()})
    if chosen:
        names = [(lists.speaker_of(test.names[a]), lists.speaker_of(test.names[b])) for a, b in test.pairs.tolist()]
        last = list(made.values())[-1]
        rows = subgroups.report_groups(last, test.labels, names, speakers, chosen, *told)
        first = ("column", "group", "targets", "impostors")
        text = summary.markdown(rows, first, subgroups.COLUMNS)
        print(f"\nby groups of speakers, {list(made)[-1]}; rates at the EER threshold of all trials\n\n{text}")
        summary.write_rows(folder / "subgroups.csv", rows, first, subgroups.COLUMNS)
        pages, values["subgroups"] = [*pages, f"{text}\n"], rows
    if short:
        rows = []
        for seconds, part in short.items():
            scores = list(score(args, part, test, tools, fitted, args.fuse)[0].values())[-1]
            rows.append({"seconds": seconds, **summary.figures(scores, test.labels, sides, *told)})
        text = summary.markdown(rows, ("seconds",))
        print(f"\nby seconds of speech on both sides, {list(made)[-1]}\n\n{text}")
        summary.write_rows(folder / "seconds.csv", rows, ("seconds",))
        plots.seconds_curve(folder / "seconds.png", rows)
        pages, values["seconds"] = [*pages, f"{text}\n"], rows
    write_text(folder / "table.md", "\n".join(pages))
    write_text(folder / "report.json", json.dumps(values, indent=2, allow_nan=False) + "\n")
    print(f"written: {folder}/report.json, table.md, table.csv, det.png, scores_*.txt")


def write_text(path: Path, text: str):
    """Write a text, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    run_main(main)
