"""What a user can get wrong in score_attributes.py fit and test; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import numpy as np
from wrong_cases_scoring import table, words_of
from wrong_inputs import Case, file, lines_of, trials_of

from scoring import likelihood, population
from scoring.codes import Codes, write_codes
from scoring.embeddings import write_npz

N = 16
META = {"encoder": "bae.pt", "encoder_sha256": "abc", "attributes": N, "embeddings": {"sha256": "e1", "wav_scale": 1}}


def names_of(place):
    return sorted(line.split()[1] for line in (place.corpus / "train.txt").read_text().splitlines())


def codes(name="c.npz", attributes=N, leave_out=0, **meta):
    """Return a maker of a table of random codes of the corpus."""

    def make(place):
        names = names_of(place)[leave_out:]
        bits = np.random.default_rng(0).integers(0, 2, (len(names), attributes)).astype(np.uint8)
        seconds = np.full(len(names), 0.9, np.float32)
        write_codes(place.folder / name, Codes(np.array([n.encode() for n in names]), bits, seconds, {**META, **meta}))
        return place.folder / name

    return make


def not_binary(place):
    """Write a table of codes with a bit after the last attribute."""
    names = np.array([n.encode() for n in names_of(place)])
    write_npz(
        place.folder / "c.npz", names=names, packed=np.full((len(names), 2), 255, np.uint8), attributes=np.array(12),
        seconds=np.ones(len(names), np.float32), meta=np.array("{}"),
    )  # fmt: skip
    return place.folder / "c.npz"


def models(*kinds, name="models", change=None):
    """Return a maker of a folder of models fitted to random codes."""

    def make(place):
        bits = np.random.default_rng(1).integers(0, 2, (40, N)).astype(np.uint8)
        pop = population.population(bits, np.arange(40) % 8, [str(i) for i in range(8)])
        (place.folder / name).mkdir(exist_ok=True)
        for kind in kinds or likelihood.KINDS:
            model = likelihood.fit_model(kind, pop)
            model.meta |= {**{k: v for k, v in META.items() if k != "attributes"}, "list_hash": "h", **(change or {})}
            likelihood.write_model(place.folder / name / f"{kind}.npz", model)
        return place.folder / name

    return make


def two_populations(place):
    """Write models of two populations into one folder."""
    models("dna")(place)
    return models("beta", change={"list_hash": "other"})(place)


def train_of(place):
    return place.corpus / "train.txt"


def command(name, **usual):
    """Return a function that makes flags of a command; None leaves a flag out."""

    def changed(**changes):
        def flags(place):
            given = {key: value for key, value in {**usual, **changes}.items() if value is not None}
            return [name, *words_of(place, {"save_path" if name == "test" else "out": place.folder / "out", **given})]

        return flags

    return changed


fit = command("fit", codes=codes(), list=train_of)
test = command("test", model=models(), codes=codes(), test_list=trials_of, bootstrap=0)


def calibrated(**changes):
    """Return a maker of the flags of a test with a calibration on half of the trials."""
    half = lines_of("trials.txt", lambda lines: lines[:24])
    return test(calibration_codes=codes("d.npz"), calibration_list=half, **changes)


def table_of(*rows):
    """Return a maker of a table of comparisons."""
    return file("t.tsv", "enrollment\ttest\n" + "".join(f"{row}\n" for row in rows))


FILES = [f"spk{s}/s1/0000{i}.wav" for s in range(3) for i in range(2)]
SPEAKERS = file("s.csv", "id,speaker\n" + "".join(f"{name},{name[:4]}\n" for name in FILES))
MIXED = table_of(f"{FILES[0]}\t{FILES[1]}", f"{FILES[0]},{FILES[2]}\t{FILES[3]}")
SEVERAL = table_of(f"{FILES[0]},{FILES[1]}\t{FILES[0]}", f"{FILES[2]}\t{FILES[0]}")

CASES = {
    "score_attributes.py": [
        Case("no command", lambda place: [], "a command is needed: fit, test, explain"),
        Case("another command", lambda place: ["score"], "unknown command 'score'"),
        # fit
        Case("a population without codes", fit(codes=None), "--codes is required"),
        Case("a population without speakers", fit(list=None), "--list is required"),
        Case("codes that are not there", fit(codes="gone.npz"), "gone.npz: no such file"),
        Case("codes that are not binary", fit(codes=not_binary), "c.npz: not binary codes of 12 attributes"),
        Case("embeddings as codes", fit(codes=lambda place: models("dna")(place) / "dna.npz"), "holds no 'names'"),
        Case("a list that is not there", fit(list="gone.csv"), "gone.csv: no such file"),
        Case(
            "an id that is given twice",
            fit(list=file("l.csv", "id,speaker\n007,a\n8,b\n007,a\n")),
            "l.csv, line 4: id 007 is given twice",
        ),
        Case("a CSV without speakers", fit(list=file("l.csv", "id,sex\na,f\nb,m\n")), "l.csv: no column speaker"),
        Case("a gap among the speakers", fit(list=file("l.csv", "id,speaker\na,s\nb,\n")), "l.csv: no speaker of b"),
        Case("a recording without a code", fit(codes=codes(leave_out=1)), "no code of spk0/s1/00000.wav"),
        Case(
            "one speaker only",
            fit(list=lines_of("train.txt", lambda lines: lines[:4])),
            "one speaker, spk0; a population takes two or more",
        ),
        Case(
            "one recording of each speaker",
            fit(list=lines_of("train.txt", lambda lines: lines[::4])),
            "all 8 speakers have one recording, drop-out cannot be told",
        ),
        Case("a model that there is not", fit(models="plda"), "--models"),
        Case("a drop-in of 1", fit(drop_in=1), "--drop_in 1.0: must be at least 1e-06"),
        Case("no iteration", fit(iterations=0), "--iterations 0: must be at least 1"),
        Case("p below q", fit(p=0.1, q=0.2), "0 < q < p < 1 are needed"),
        Case("a share above 1", fit(max_drop_out=2), "--max_drop_out 2.0: must be at least 0 and at most 1"),
        Case("ranges without an attribute", fit(min_typicality=1, max_drop_out=0), "dna: no attribute is left"),
        Case("a drop-in to be tuned on nothing", fit(tune_drop_in=True), "--tune_drop_in needs --dev_codes"),
        Case(
            "trials without tuning",
            fit(dev_trials=trials_of),
            "--dev_codes, --dev_trials and --dev_list are for --tune_drop_in",
        ),
        Case("a criterion without tuning", fit(tune_by="calibrated"), "--tune_by is for --tune_drop_in"),
        Case(
            "a drop-in of models without one",
            fit(tune_drop_in=True, models="beta", dev_codes=codes("d.npz"), dev_trials=trials_of),
            "--tune_drop_in is for the models dna and speech",
        ),
        Case(
            "development codes by another encoder",
            fit(tune_drop_in=True, dev_codes=codes("d.npz", encoder_sha256="xyz"), dev_trials=trials_of),
            "d.npz: codes by encoder bae.pt (sha256 xyz)",
        ),
        Case(
            "development trials without labels",
            fit(tune_drop_in=True, dev_codes=codes("d.npz"), dev_trials=SEVERAL),
            "has no labels: no drop-in can be chosen on it; give --dev_list",
        ),
        Case(
            "iterations of no model that iterates",
            fit(models="dna", iterations=5),
            "--iterations is for the models max",
        ),
        Case("a start of no model", fit(models="beta", p=0.8), "--p is for the model maxllr"),
        Case("a drop-in of no model", fit(models="beta", drop_in=0.2), "--drop_in is for the models dna and speech"),
        Case("a separator of no table", fit(sep=","), "--sep is for --dev_trials"),
        Case("half of published values", fit(typicality=file("t.txt", "BA0 : 1\n")), "need each other"),
        Case(
            "published values of more attributes",
            fit(typicality=file("t.txt", f"BA{N} : 0.5\n"), drop_out=file("d.txt", "BA0 : 0.5\n")),
            f"t.txt: names attribute {N} of {N}, counted from 0",
        ),
        Case(
            "published values of another form",
            fit(typicality=file("t.txt", "BA0 0.5\n"), drop_out=file("d.txt", "BA0 : 0.5\n")),
            "t.txt, line 1: expected `BA7 : 0.650510`, found 'BA0 0.5'",
        ),
        # test
        Case("no model", test(model=None), "--model is required"),
        Case("a model that is not there", test(model="gone.npz"), "gone.npz: no such file"),
        Case("a folder without models", test(model=lambda place: place.folder), "holds no model, dna, speech"),
        Case("codes as a model", test(model=codes("m.npz")), "m.npz: not a file of this kind, it holds no 'used'"),
        Case("models of two populations", test(model=two_populations), "models of different populations or encoders"),
        Case("a test without codes", test(codes=None), "--codes is required"),
        Case("no trials", test(test_list=None), "--test_list is required"),
        Case("codes of another size", test(codes=codes(attributes=8)), "codes of 8 attributes, model dna has 16"),
        Case(
            "codes by another encoder",
            test(codes=codes(encoder_sha256="xyz")),
            "codes by encoder bae.pt (sha256 xyz), model dna is of bae.pt (sha256 abc)",
        ),
        Case(
            "codes of other embeddings",
            test(codes=codes(embeddings={"sha256": "e2", "wav_scale": 1})),
            "c.npz by unknown checkpoint (sha256 e2) at wav_scale 1: extract both alike, or give --allow_other_encoder",
        ),
        Case("a trial without a code", test(codes=codes(leave_out=1)), "no code of spk0/s1/00000.wav"),
        Case("targets only", test(test_list=lines_of("trials.txt", lambda lines: lines[::2])), "of different speakers"),
        Case("a cell of two speakers", test(test_list=MIXED, list=SPEAKERS), "t.tsv, line 3: one side holds several"),
        Case(
            "a cell without an id",
            test(test_list=table_of(f"{FILES[0]},\t{FILES[1]}"), list=SPEAKERS),
            "t.tsv, line 2: an id is missing",
        ),
        Case(
            "several recordings for a model of single ones",
            test(test_list=SEVERAL, list=SPEAKERS),
            "dna compares one recording with one; a side here pools 2",
        ),
        Case(
            "speakers that are not known",
            test(test_list=SEVERAL, list=file("s.csv", "id,speaker\nx,y\n")),
            f"t.tsv, line 2: no speaker of {FILES[0]} is known",
        ),
        Case("a calibration without codes", test(calibration_list=trials_of), "need each other"),
        Case(
            "a calibration on the test list",
            test(calibration_codes=codes("d.npz"), calibration_list=trials_of),
            "is the list that the calibration was fitted on",
        ),
        Case("a fusion fitted on nothing", test(fusion="beta"), "--fusion needs --calibration_codes"),
        Case("a fusion of a model that is not there", calibrated(model=models("dna"), fusion="beta"), "--fusion beta"),
        Case("a strength without a fusion", calibrated(fusion_strength=1), "--fusion_strength needs --fusion"),
        Case(
            "a strength of nothing", calibrated(calibration_strength=0), "--calibration_strength 0.0: must be at least"
        ),
        Case(
            "embeddings without the cosine of codes",
            test(model=models("dna"), embeddings=codes("e.npz")),
            "give the model cosine too",
        ),
        Case(
            "embeddings that the codes were not made of",
            test(embeddings=table("e.npz")),
            "c.npz holds or wants embeddings by unknown checkpoint (sha256 e1)",
        ),
        Case(
            "codes as embeddings", test(embeddings=codes("e.npz")), "e.npz: not a file of this kind, it holds no 'vec"
        ),
    ]
}
