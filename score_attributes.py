"""Likelihood ratios from binary voice attributes: fit models to a population, test them on trials, explain comparisons.

    python score_attributes.py fit --codes TRAIN.npz --list TRAIN_LIST --out models
    python score_attributes.py test --model models --codes TEST.npz --test_list TRIALS --save_path exps/llr
    python score_attributes.py explain ...

Each command has its own --help.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from audio.lists import speaker_of
from audio.metadata import Comparisons, Metadata, read_comparisons, read_metadata
from engine.args import check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from scoring import attribute_flags, attribute_report, calibration, drop_in, fusion, likelihood, population, summary
from scoring.attribute_report import Scored
from scoring.codes import Codes, read_codes
from scoring.embeddings import read_table
from scoring.sides import Cells, cells_of, check_encoder, code_side, embedding_scores

ONE_RECORDING = "drop-out cannot be told from one recording of a speaker"
EMBEDDINGS = "cosine of embeddings"


def command_parser(name: str, add_arguments):
    """Return the parser of a command, with a description from COMMANDS."""
    parser = make_parser(COMMANDS[name][0])
    parser.prog = f"{parser.prog} {name}"
    add_arguments(parser)
    return parser


# ---------------------------------------------------------------- fit


def make_fit_flags():
    """Return the parser of `fit`."""
    return command_parser("fit", attribute_flags.add_fit_arguments)


def fit(args):
    """Fit models to a reference population and write them."""
    check_ranges(args, attribute_flags.FIT_RANGES)
    attribute_flags.check_fit(args)
    codes = read_codes(args.codes)
    listed = read_metadata(args.list)
    names, labels = np.unique(listed.require_speakers(), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{args.list}: one speaker, {names[0]}; a population takes two or more")
    pop = population.population(codes.bits[codes.rows(listed.ids)], labels, names.tolist())
    alone = int((pop.recordings == 1).sum())
    if alone == len(names) and not args.allow_single:
        raise ValueError(f"{args.list}: all {alone} speakers have one recording, {ONE_RECORDING}: see --allow_single")
    about = {
        "list": Path(args.list).name, "list_hash": listed.hash, "encoder": codes.meta.get("encoder"),
        "encoder_sha256": codes.meta.get("encoder_sha256"), "embeddings": codes.meta.get("embeddings", {}),
    }  # fmt: skip
    typical = published(args.typicality, codes) if args.typicality else population.typicality(pop)
    dropped = published(args.drop_out, codes) if args.drop_out else population.drop_out(pop)
    counted = (typical >= args.min_typicality) & (typical <= args.max_typicality) & (dropped <= args.max_drop_out)
    dev = development(args, codes) if args.tune_drop_in else None
    folder = Path(args.out)
    make_folder(folder)

    print(f"{codes.describe()}\n{listed.describe()}\n{pop.describe()}")
    numbers = population.count_attributes(pop)
    print("attributes: " + ", ".join(f"{number} {name}" for name, number in numbers.items()))
    if alone:
        print(f"warning: {alone} of {len(names)} speakers have one recording; {ONE_RECORDING}, 0 is taken")
    constant = np.flatnonzero(population.constant(pop)).tolist()
    if constant:
        shown = ", ".join(map(str, constant[:20])) + (" ..." if len(constant) > 20 else "")
        print(f"warning: {len(constant)} attributes never change, left out of maxllr and beta: {shown}")
    columns = {"speakers": population.having(pop), "typicality": typical, "drop_out": dropped}
    for kind in dict.fromkeys(args.models):
        model = fit_kind(args, kind, pop, typical, dropped)
        model.used &= counted
        if dev is not None and kind in likelihood.SINGLE_ONLY:
            model = tuned(args, model, *dev, folder)
        if not model.used.any():
            raise ValueError(f"{kind}: no attribute is left; see --min_typicality, --max_typicality, --max_drop_out")
        model.meta |= about
        likelihood.write_model(folder / f"{kind}.npz", model)
        print(model.describe())
        for name, values in model.parameters.items():
            parts = {"alpha": values[:, 0], "beta": values[:, 1]} if name == "alpha" else {name: values}
            columns |= {key: part for key, part in parts.items() if key not in columns}
        columns[f"used_{kind}"] = model.used
    population.write_attributes(folder / "population.csv", columns)
    population.write_published(folder / "typicality.txt", typical)
    population.write_published(folder / "drop_out.txt", dropped)
    print(f"written: {folder}/population.csv, typicality.txt, drop_out.txt, {', '.join(args.models)} (.npz)")


def published(path: str, codes: Codes) -> np.ndarray:
    """Return published values, of as many attributes as the codes have."""
    values, attributes = population.read_published(path), codes.bits.shape[1]
    if len(values) > attributes:
        raise ValueError(f"{path}: names attribute {len(values) - 1}, {codes.path} has {attributes}, counted from 0")
    return np.pad(values, (0, attributes - len(values)))


def fit_kind(args, kind: str, pop, typical, dropped) -> likelihood.AttributeModel:
    """Return a model of the population, or of the given typicality and drop-out."""
    model = likelihood.fit_model(
        kind, pop, args.drop_in, args.iterations, args.typicality_threshold, (args.f, args.p, args.q), args.eps
    )
    if kind not in likelihood.SINGLE_ONLY:
        return model
    return likelihood.published_model(kind, typical, dropped, args.drop_in, args.typicality_threshold, model.meta)


def development(args, codes: Codes):
    """Return both sides, pairs and labels of the development trials."""
    listed = [read_metadata(args.dev_list)] if args.dev_list else []
    comparisons = labelled(args.dev_trials, args.sep, listed)
    if comparisons.labels is None:
        raise ValueError(f"{args.dev_trials} has no labels: no drop-in can be chosen on it; give --dev_list")
    dev_codes, cells = read_codes(args.dev_codes), cells_of(comparisons.enrolment, comparisons.test)
    check_encoder(codes.meta, args.codes, dev_codes, False)
    return *(code_side(dev_codes, side) for side in cells[:2]), cells.pairs, comparisons.labels


def tuned(args, model, enrol, test, pairs, labels, folder: Path) -> likelihood.AttributeModel:
    """Return the model with the best drop-in on development trials; write the costs of all that were tried."""
    best, rows = drop_in.search_drop_in(model, enrol, test, pairs, labels, args.tune_by)
    drop_in.write_search(folder / f"drop_in_{model.kind}.csv", rows)
    row = next(row for row in rows if row["drop_in"] == best)
    print(
        f"{model.kind}: drop-in {best:g} has the least {args.tune_by} of {len(rows)} on {len(labels)} trials of "
        f"{args.dev_trials}: Cllr {row['cllr']:.3f}, calibrated {row['calibrated']:.3f}, least {row['min_cllr']:.3f}"
    )
    model.meta |= {"drop_in": best, "tuned_by": args.tune_by, "tuned_on": Path(args.dev_trials).name}
    return model


# ---------------------------------------------------------------- test


def make_test_flags():
    """Return the parser of `test`."""
    return command_parser("test", attribute_flags.add_test_arguments)


def test(args):
    """Score lists of comparisons, calibrate, fuse, report."""
    check_ranges(args, attribute_flags.TEST_RANGES)
    attribute_flags.check_test(args)
    models = likelihood.read_models(args.model)
    missing = [kind for kind in args.fusion if kind not in models]
    if missing:
        raise ValueError(f"--fusion {missing[0]}: --model holds {', '.join(models)}")
    if args.embeddings and "cosine" not in models:
        raise ValueError("--embeddings is compared with the cosine of the codes: give the model cosine too")
    known = [read_metadata(path) for path in args.list]
    tables = [read_codes(path) for path in (args.codes, args.enrol_codes or args.codes)]
    dev_codes = read_codes(args.calibration_codes) if args.calibration_codes else None
    for model in models.values():
        for codes in [*tables, dev_codes] if dev_codes else tables:
            check_codes(model, codes, args.allow_other_encoder)
    lists = {Path(path).stem: labelled(path, args.sep, known) for path in args.test_list}
    if len(lists) < len(args.test_list):
        raise ValueError("--test_list: two lists of the same name; their files would be one")
    dev = labelled(args.calibration_list, args.sep, known) if args.calibration_list else None
    vectors = [read_table(path) if path else None for path in (args.embeddings, args.calibration_embeddings)]
    check_apart(args, dev, lists, known)
    parts = {name: cells_of(found.enrolment, found.test) for name, found in lists.items()}
    raw = {name: raw_scores(models, *tables, cells, vectors[0]) for name, cells in parts.items()}
    fitted, fused = {}, {}
    if dev is not None:
        dev_cells = cells_of(dev.enrolment, dev.test)
        dev_sides = speaker_sides(dev_cells, known)
        fitted = fit_calibrations(args, dev, raw_scores(models, dev_codes, dev_codes, dev_cells, vectors[1]))
        sides = [code_side(dev_codes, side) for side in dev_cells[:2]]
        for kind in args.fusion:
            fused[kind], search = fusion.fit_pairs(
                models[kind], *sides, dev_cells.pairs, dev.labels, dev_sides, args.fusion_strength, args.seed
            )
    folder = Path(args.save_path)
    make_folder(folder)

    print("\n".join([tables[0].describe(), *(model.describe() for model in models.values())]))
    for system, found in fitted.items():
        print(f"{system}: {found.describe()}")
        calibration.write_calibration(folder / f"calibration_{system.replace(' ', '_')}.json", found)
    for kind, found in fused.items():
        print(f"{kind}: {found.describe()}")
        columns = {"mean": found.mean, "deviation": found.deviation, "weight": found.weights}
        population.write_attributes(folder / f"fusion_{kind}.csv", columns)
    rows = []
    for name, comparisons in lists.items():
        print(comparisons.describe())
        cells, made = parts[name], {}
        for system, scores in raw[name].items():
            made[system, "raw"] = scores
            if system in fitted:
                made[system, "calibrated"] = fitted[system].apply(scores)
        for kind, found in fused.items():
            sides = [code_side(codes, side) for codes, side in zip(tables[::-1], cells[:2])]
            made[f"fusion of {kind}", "fused"] = fusion.apply_pairs(found, models[kind], *sides, cells.pairs)
        scored = Scored(name, cells, comparisons.labels, speaker_sides(cells, known), made)
        attribute_report.write_scored(folder, scored)
        if comparisons.labels is None:
            print(f"{comparisons.name} has no labels: no error rates; scores in {folder}")
            continue
        rows += attribute_report.measure(scored, args.eer_method, args.bootstrap, args.seed)
        attribute_report.write_plots(folder, scored)
    report(args, folder, rows, models, lists, fitted, fused)


def check_codes(model: likelihood.AttributeModel, codes: Codes, allowed: bool):
    """Refuse codes that are not of the model's attributes."""
    if codes.bits.shape[1] != len(model.used):
        raise ValueError(f"{codes.path}: codes of {codes.bits.shape[1]} attributes, {model.kind} has {len(model.used)}")
    if not allowed:
        check_encoder(model.meta, f"model {model.kind}", codes)


def check_apart(args, dev: Comparisons | None, lists: dict[str, Comparisons], known: list[Metadata]):
    """Refuse to calibrate on a list that is tested or has no labels; warn of speakers that are in both."""
    if dev is None:
        return
    if dev.labels is None:
        raise ValueError(f"{dev.name} has no labels: nothing can be calibrated on it; give --list")
    who = speakers_of(known)
    own = {who(name) for name in dev.names()} - {None}
    for comparisons in lists.values():
        calibration.check_other_list(dev.hash, comparisons.hash, comparisons.name, args.allow_same_list)
        shared = own & {who(name) for name in comparisons.names()}
        if shared and dev.hash != comparisons.hash:
            print(f"warning: {len(shared)} speakers are in both {dev.name} and {comparisons.name}")


def raw_scores(models, codes: Codes, enrol_codes: Codes, cells: Cells, vectors) -> dict[str, np.ndarray]:
    """Return {system: scores (trials,)}: the cosine of embeddings where there are some, then every model."""
    made = {} if vectors is None else {EMBEDDINGS: embedding_scores(vectors, cells)}
    enrol, tested = code_side(enrol_codes, cells.enrolment), code_side(codes, cells.test)
    order = sorted(models, key=lambda kind: kind != "cosine")
    return made | {kind: likelihood.score_pairs(models[kind], enrol, tested, cells.pairs) for kind in order}


def fit_calibrations(args, dev: Comparisons, raw: dict[str, np.ndarray]) -> dict[str, calibration.Calibration]:
    """Return an affine calibration of every system, fitted on its scores of other trials."""
    about = {"list": Path(args.calibration_list).name, "hash": dev.hash}
    return {
        system: calibration.fit(scores, dev.labels, [system], 0.5, about, args.calibration_strength)
        for system, scores in raw.items()
    }


def report(args, folder: Path, rows: list[dict], models, lists, fitted, fused):
    """Print and write the tables of labelled lists."""
    values = {
        "models": {kind: model.meta for kind, model in models.items()},
        "lists": {name: {"file": found.name, "hash": found.hash} for name, found in lists.items()},
        "calibration": {system: {**found.fitted_on, "formula": found.describe()} for system, found in fitted.items()},
        "fusion": {kind: found.fitted_on for kind, found in fused.items()}, "rows": rows,
    }  # fmt: skip
    if rows:
        text = summary.markdown(rows, attribute_report.FIRST)
        print(f"\n{text}\n")
        if args.bootstrap:
            print(
                f"95 % intervals: {args.bootstrap} bootstrap replicates over speakers (trials, where those are unknown)"
            )
        summary.write_rows(folder / "results.csv", rows, attribute_report.FIRST)
        write_text(folder / "results.md", f"{text}\n")
        for name, loss in attribute_report.binary_loss(rows, "cosine", EMBEDDINGS).items():
            values.setdefault("eer_lost_going_binary", {})[name] = loss
            print(
                f"{name}: going binary costs {'nothing to compare' if loss is None else f'{100 * loss:+.1f} %'} of EER"
            )
    write_text(folder / "metrics.json", json.dumps(values, indent=2, allow_nan=False) + "\n")
    print(f"written: {folder}/metrics.json, results.csv, results.md, scores_*, det_*, tippett_*, ece_*")


# ---------------------------------------------------------------- what the commands share


def labelled(path: str, sep: str, listed: list[Metadata]) -> Comparisons:
    """Return comparisons with labels: their own, or from the speakers of `listed`; without either labels are None."""
    comparisons = read_comparisons(path, sep)
    if comparisons.labels is None and listed:
        comparisons.label({name: who for known in listed for name, who in zip(known.ids, known.require_speakers())})
    if comparisons.labels is not None and len(set(comparisons.labels.tolist())) < 2:
        kind = "different" if comparisons.labels[0] else "the same"
        raise ValueError(f"{path}: no comparison of {kind} speakers: no error rate can be had from it")
    return comparisons


def speakers_of(known: list[Metadata]):
    """Return a function from an id to its speaker: as the tables say, else the first folder of a path, else None."""
    told = {name: who for table in known for name, who in zip(table.ids, table.speakers)}
    return lambda name: told.get(name) or speaker_of(name)


def speaker_sides(cells: Cells, known: list[Metadata]) -> np.ndarray | None:
    """Return the speaker index of both sides (trials, 2); None where one is not known."""
    who = speakers_of(known)
    found = [who(cell[0]) for cell in (*cells.enrolment, *cells.test)]
    if None in found:
        return None
    return np.unique(found, return_inverse=True)[1].reshape(-1)[cells.names()[1]]


def write_text(path: Path, text: str):
    """Write a text, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


# ---------------------------------------------------------------- explain


def make_explain_flags():
    """Return the parser of `explain`."""
    parser = command_parser("explain")
    pair = parser.add_argument_group("one comparison")
    pair.add_argument("--model", default="", metavar="FILE.npz", help="a model that `fit` wrote")
    pair.add_argument("--codes", default="", metavar="FILE.npz", help="codes of train_attributes.py --binarize")
    pair.add_argument("--enrol", default="", metavar="ID[,ID]", help="recordings of one side, as --codes names them")
    pair.add_argument("--test", default="", metavar="ID[,ID]", help="recordings of the other side")
    pair.add_argument("--test_list", default="", help="comparisons, of which --trial is explained instead")
    pair.add_argument("--trial", type=int, default=1, help="number of the comparison in --test_list, from 1")
    pair.add_argument("--calibration", default="", metavar="FILE.json", help="calibration of this model by `test`")
    pair.add_argument("--dev_list", default="", help="comparisons with labels, among whose LLRs this one is shown")
    pair.add_argument("--dev_codes", default="", metavar="FILE.npz", help="their codes (default: --codes)")
    wave = parser.add_argument_group("two recordings: --enrol and --test are then audio files")
    wave.add_argument("--initial_model", default="", help="speaker network that the encoder was trained on")
    wave.add_argument("--encoder", default="", metavar="FILE", help="encoder of embeddings into attributes")
    wave.add_argument("--wav_scale", type=float, default=None, help="factor on waves in [-1, 1] of a published network")
    wave.add_argument("--device", default="", help="cuda, cuda:1 or cpu (default: cuda where available, else cpu)")
    cards = parser.add_argument_group("cards of attributes")
    cards.add_argument("--cards", default="", help="`all`, or numbers of attributes as in 3,17,40")
    cards.add_argument("--list", default="", help="the population: lines `speaker file`, or a CSV with such columns")
    cards.add_argument(
        "--speakers", default="", help="CSV with a column `speaker` and others, to set attributes against"
    )
    cards.add_argument("--entry_level", type=float, default=0.01, help="p-value below which a measure enters")
    cards.add_argument("--seed", type=int, default=10, help="seed of the draws of balanced recordings")
    told = parser.add_argument_group("audio and output")
    told.add_argument("--audio_path", default="", help="prefix of recordings, to play and to measure them")
    told.add_argument("--save_path", default="exps/explain", help="folder for the table (.csv) and the page (.html)")
    return parser


def explain(args):
    """Explain one comparison, or make cards of attributes."""
    check_ranges(args, {"trial": (1, None), "wav_scale": (1e-6, 1e9), "entry_level": (1e-12, 1), "seed": (0, None)})
    recordings, sides = args.initial_model or args.encoder, args.enrol or args.test
    compares = recordings or sides or args.test_list or args.model
    wrong = [
        (not (compares or args.cards), "nothing to explain: --enrol and --test, --test_list with --trial, or --cards"),
        (args.cards and (compares or args.calibration or args.dev_list),
         "--cards describes a population: leave out what is of one comparison"),
        (args.cards and not (args.codes and args.list), "--cards needs --codes and --list, the population"),
        (not args.cards and args.list, "--list is for --cards"),
        (not args.cards and args.speakers, "--speakers is for --cards"),
        (compares and not args.model, "--model is required: a model that `fit` wrote"),
        (compares and args.test_list and (sides or recordings), "give either --test_list or --enrol and --test"),
        (compares and not args.test_list and not (args.enrol and args.test), "--enrol and --test are needed together"),
        (recordings and not (args.initial_model and args.encoder), "--initial_model and --encoder need each other"),
        (recordings and args.codes, "--initial_model and --encoder make the codes: leave --codes out"),
        (recordings and args.audio_path, "--enrol and --test are audio files here: leave --audio_path out"),
        (compares and not recordings and not args.codes, "--codes is required (or --initial_model and --encoder)"),
        (args.dev_codes and not args.dev_list, "--dev_codes needs --dev_list"),
        (args.dev_list and recordings and not args.dev_codes, "--dev_list needs --dev_codes here"),
        (args.wav_scale is not None and not recordings, "--wav_scale needs --initial_model"),
        (args.device and not recordings, "--device is for --initial_model"),
    ]  # fmt: skip
    for holds, message in wrong:
        if holds:
            raise ValueError(message)
    import AttributeReport  # torch and its networks: fit and test start faster without

    if args.cards:
        AttributeReport.make_cards(args)
    elif recordings:
        AttributeReport.explain_recordings(args)
    else:
        AttributeReport.explain_codes(args)


# ---------------------------------------------------------------- which command

COMMANDS = {
    "fit": ("Fit likelihood-ratio models to the codes of a reference population.", make_fit_flags, fit),
    "test": ("Score comparisons of codes, calibrate the scores, report error rates.", make_test_flags, test),
    "explain": ("Explain comparisons, or describe the attributes of a population.", make_explain_flags, explain),
}


def main(argv=None):
    """Run the command that the first word names."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(f"{__doc__}\ncommands:")
        for name, (purpose, _, _) in COMMANDS.items():
            print(f"  {name:8} {purpose}")
        if not words:
            raise ValueError(f"a command is needed: {', '.join(COMMANDS)}")
        return
    if words[0] not in COMMANDS:
        raise ValueError(f"unknown command {words[0][:40]!r}: one of {', '.join(COMMANDS)}")
    _, make_flags, run = COMMANDS[words[0]]
    args, _ = parse(make_flags(), words[1:])
    return run(args)


if __name__ == "__main__":
    run_main(main)
