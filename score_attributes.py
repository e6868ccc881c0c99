"""Likelihood ratios from binary voice attributes: fit models to a population, test them on trials, explain comparisons.

    python score_attributes.py fit --codes TRAIN.npz --list TRAIN_LIST --out models
    python score_attributes.py test --model models --codes TEST.npz --test_list TRIALS --save_path exps/llr
    python score_attributes.py explain ...

Each command has its own --help.
"""

import sys
from pathlib import Path

import numpy as np

from audio.lists import speaker_of
from audio.metadata import Comparisons, Metadata, read_comparisons, read_metadata
from engine.args import check_ranges, make_parser, parse
from engine.log import make_folder, run_main
from scoring import (
    attribute_flags,
    attribute_plots,
    attribute_report,
    calibration,
    drop_in,
    explain_flags,
    likelihood,
    population,
)
from scoring import attribute_systems as systems
from scoring.attribute_report import Scored
from scoring.codes import Codes, read_codes
from scoring.embeddings import read_table
from scoring.sides import Cells, cells_of, check_codes, check_embeddings, code_side

ONE_RECORDING = "drop-out cannot be told from one recording of a speaker"


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
    typical, dropped = population.typicality(pop), population.drop_out(pop)
    if args.typicality:
        attributes = codes.bits.shape[1]
        typical, dropped = (population.read_published(path, attributes) for path in (args.typicality, args.drop_out))
    counted = (typical >= args.min_typicality) & (typical <= args.max_typicality) & (dropped <= args.max_drop_out)
    dev = development(args, codes) if args.tune_drop_in else None
    models, searches = {}, {}
    for kind in dict.fromkeys(args.models):
        model = models[kind] = fit_kind(args, kind, pop, typical, dropped)
        model.used &= counted
        if not model.used.any():
            raise ValueError(f"{kind}: no attribute is left; see --min_typicality, --max_typicality, --max_drop_out")
        if dev is not None and kind in likelihood.SINGLE_ONLY:
            model.meta["drop_in"], searches[kind] = drop_in.search_drop_in(model, *dev, args.tune_by)
            model.meta |= {"tuned_by": args.tune_by, "tuned_on": Path(args.dev_trials).name}
        model.meta |= about
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
    for kind, rows in searches.items():
        print(drop_in.describe(kind, rows, args.tune_by, args.dev_trials))
        drop_in.write_search(folder / f"drop_in_{kind}.csv", rows)
    columns = {"speakers": population.having(pop), "typicality": typical, "drop_out": dropped}
    for kind, model in models.items():
        print(model.describe())
        likelihood.write_model(folder / f"{kind}.npz", model)
        for name, values in model.parameters.items():
            columns |= {"alpha": values[:, 0], "beta": values[:, 1]} if name == "alpha" else {name: values}
    columns |= {f"used_{kind}": model.used for kind, model in models.items()}
    population.write_attributes(folder / "population.csv", columns)
    population.write_published(folder / "typicality.txt", typical)
    population.write_published(folder / "drop_out.txt", dropped)
    attribute_plots.population_plot(folder / "population.png", typical, dropped, counted)
    print(f"written: {folder}/population.csv, population.png, typicality.txt, drop_out.txt, {', '.join(models)} (.npz)")


def fit_kind(args, kind: str, pop, typical, dropped) -> likelihood.AttributeModel:
    """Return a model of the population, or of the given typicality and drop-out."""
    model = likelihood.fit_model(
        kind, pop, args.drop_in, args.iterations, args.typicality_threshold, (args.f, args.p, args.q), args.eps
    )
    if kind not in likelihood.SINGLE_ONLY:
        return model
    about = {name: model.meta[name] for name in ("speakers", "recordings")}
    return likelihood.published_model(kind, typical, dropped, args.drop_in, args.typicality_threshold, about)


def development(args, codes: Codes):
    """Return both sides, pairs and labels of the development trials."""
    listed = [read_metadata(args.dev_list)] if args.dev_list else []
    comparisons = labelled(args.dev_trials, args.sep, listed)
    if comparisons.labels is None:
        raise ValueError(f"{args.dev_trials} has no labels: no drop-in can be chosen on it; give --dev_list")
    dev_codes, cells = read_codes(args.dev_codes), cells_of(comparisons.enrolment, comparisons.test)
    check_codes(codes.meta, args.codes, codes.bits.shape[1], dev_codes)
    return *(code_side(dev_codes, side) for side in cells[:2]), cells.pairs, comparisons.labels


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
    codes = read_codes(args.codes)
    enrol_codes = read_codes(args.enrol_codes) if args.enrol_codes else codes
    dev_codes = read_codes(args.calibration_codes) if args.calibration_codes else None
    for model in models.values():
        for table in filter(None, (codes, enrol_codes, dev_codes)):
            check_codes(model.meta, f"model {model.kind}", len(model.used), table, args.allow_other_encoder)
    vectors, dev_vectors = (
        read_table(path) if path else None for path in (args.embeddings, args.calibration_embeddings)
    )
    for table, made in ((vectors, codes), (dev_vectors, dev_codes)):
        if table and not args.allow_other_encoder:
            check_embeddings(table, made)
    lists = {Path(path).stem: labelled(path, args.sep, known) for path in args.test_list}
    if len(lists) < len(args.test_list):
        raise ValueError("--test_list: two lists of the same name; their files would be one")
    cells = {name: cells_of(found.enrolment, found.test) for name, found in lists.items()}
    raw = {name: systems.raw_scores(models, enrol_codes, codes, part, vectors) for name, part in cells.items()}
    calibrations, fusions = {}, {}
    if dev_codes is not None:
        dev = labelled(args.calibration_list, args.sep, known)
        check_apart(args, dev, lists, known)
        part, about = cells_of(dev.enrolment, dev.test), {"list": Path(dev.name).name, "hash": dev.hash}
        dev_raw = systems.raw_scores(models, dev_codes, dev_codes, part, dev_vectors)
        calibrations = systems.fit_calibrations(models, dev_raw, dev.labels, about, args.calibration_strength)
        speakers = speaker_sides(part, known)
        fusions = systems.fit_fusions(
            models, args.fusion, dev_codes, part, dev.labels, speakers, args.fusion_strength, args.seed
        )
    folder = Path(args.save_path)
    make_folder(folder)

    print("\n".join([codes.describe(), *(model.describe() for model in models.values())]))
    attribute_report.write_fitted(folder, calibrations, fusions)
    rows = []
    for name, found in lists.items():
        print(found.describe())
        made = systems.all_scores(raw[name], calibrations, fusions, models, enrol_codes, codes, cells[name])
        scored = Scored(name, cells[name], found.labels, speaker_sides(cells[name], known), made)
        attribute_report.write_scored(folder, scored)
        if found.labels is None:
            print(f"{found.name} has no labels: no error rates; scores in {folder}")
            continue
        rows += attribute_report.measure(scored, args.eer_method, args.bootstrap, args.seed)
        sides = code_side(enrol_codes, cells[name].enrolment), code_side(codes, cells[name].test)
        terms = attribute_plots.single_terms(models, *sides, cells[name].pairs, args.seed)
        attribute_report.write_plots(folder, scored, *terms)
    about = {
        "models": {kind: model.meta for kind, model in models.items()},
        "lists": {name: {"file": found.name, "hash": found.hash} for name, found in lists.items()},
        "calibration": {system: found.fitted_on for system, found in calibrations.items()},
        "fusion": {kind: found.fitted_on for kind, found in fusions.items()},
    }
    attribute_report.write_results(folder, rows, about, args.bootstrap)


def check_apart(args, dev: Comparisons, lists: dict[str, Comparisons], known: list[Metadata]):
    """Refuse to calibrate on a list that is tested or has no labels; warn of speakers that are in both."""
    if dev.labels is None:
        raise ValueError(f"{dev.name} has no labels: nothing can be calibrated on it; give --list")
    who = speakers_of(known)
    own = {who(name) for name in dev.names()} - {None}
    for comparisons in lists.values():
        calibration.check_other_list(dev.hash, comparisons.hash, comparisons.name, args.allow_same_list)
        shared = own & {who(name) for name in comparisons.names()}
        if shared and dev.hash != comparisons.hash:
            print(f"warning: {len(shared)} speakers are in both {dev.name} and {comparisons.name}")


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


# ---------------------------------------------------------------- explain


def make_explain_flags():
    """Return the parser of `explain`."""
    return command_parser("explain", explain_flags.add_explain_arguments)


def explain(args):
    """Explain one comparison, of codes or of two recordings, or make cards of attributes."""
    check_ranges(args, explain_flags.EXPLAIN_RANGES)
    explain_flags.check_explain(args)
    import AttributeReport  # its networks need seconds to import, which fit and test can do without

    if args.cards:
        AttributeReport.make_cards(args)
    elif args.encoder:
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
    args, args.given = parse(make_flags(), words[1:])
    return run(args)


if __name__ == "__main__":
    run_main(main)
