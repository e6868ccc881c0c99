"""What a user can get wrong in score_attributes.py explain; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import json

from wrong_cases_score_attributes import codes, models, names_of, train_of
from wrong_cases_scoring import best, words_of
from wrong_inputs import Case, file, lines_of, no_card, trials_of

from engine import foreign
from models.AttributeEncoder import MainModel

FIRST, SECOND = "spk0/s1/00000.wav", "spk1/s1/00001.wav"


def flags_of(**usual):
    """Return a function that makes flags of explain; None leaves a flag out."""

    def changed(**changes):
        def flags(place):
            given = {key: value for key, value in {**usual, **changes}.items() if value is not None}
            return ["explain", *words_of(place, {"save_path": place.folder / "out", **given})]

        return flags

    return changed


def model(kind="dna", **change):
    """Return a maker of the file of one model."""
    return lambda place: models(kind, change=change or None)(place) / f"{kind}.npz"


def wav(name):
    """Return a maker of the path of a recording of the corpus."""
    return lambda place: place.corpus / "wav" / name


def calibrated(*inputs, **fitted_on):
    """Return a maker of a calibration."""
    values = {"inputs": list(inputs), "scales": [1.0] * len(inputs), "offset": 0.0, "prior": 0.5}
    return file("c.json", json.dumps({**values, "fitted_on": fitted_on}))


def encoder(place):
    """Write an encoder of embeddings of 3 numbers into 16 attributes."""
    foreign.write_plain(place.folder / "encoder.pt", MainModel(3, 16))
    return place.folder / "encoder.pt"


def list_of(change):
    """Return a maker of the train list as a CSV after change(rows), rows of id and speaker."""

    def make(place):
        rows = change([(name, name.split("/")[0]) for name in names_of(place)])
        (place.folder / "l.csv").write_text("".join(",".join(row) + "\n" for row in [("id", "speaker"), *rows]))
        return place.folder / "l.csv"

    return make


pair = flags_of(model=model(), codes=codes(), enrol=FIRST, test=SECOND)
listed = flags_of(model=model(), codes=codes(), test_list=trials_of)
two = flags_of(model=model(), initial_model=best, encoder=best, enrol=wav(FIRST), test=wav(SECOND), device="cpu")
cards = flags_of(cards="all", codes=codes(), list=train_of)
SPEAKERS = "speaker,age\n" + "".join(f"spk{i},{i}\n" for i in range(8))

# ---------------------------------------------------------------- the cases

CASES = {
    "score_attributes.py": [
        Case("nothing to explain", pair(model=None, codes=None, enrol=None, test=None), "nothing to explain"),
        Case("a comparison without a model", pair(model=None), "--model is required"),
        Case("a folder as the one model", pair(model=models()), "a folder; name one of its models"),
        Case("one side of a comparison", pair(test=None), "--enrol and --test are needed together"),
        Case("a comparison without codes", pair(codes=None), "--codes is required (or"),
        Case("a recording to explain without a code", pair(test="gone.wav"), "c.npz: no code of gone.wav"),
        Case("a side that names a recording twice", pair(enrol=f"{FIRST},{FIRST}"), "each once"),
        Case("a side with an empty name", pair(enrol=f"{FIRST},"), "recordings separated by commas"),
        Case("several recordings for dna", pair(enrol=f"{FIRST},spk0/s1/00001.wav"), "dna compares one recording with"),
        Case("codes of another size to explain", pair(codes=codes(attributes=8)), "codes of 8 attributes"),
        Case("codes of another encoder to explain", pair(codes=codes(encoder_sha256="other")), "--allow_other_encoder"),
        Case("a list and two sides", pair(test_list=trials_of), "give either --test_list or --enrol and --test"),
        Case("a comparison beyond the list", listed(trial=999), "--trial 999: "),
        Case("the comparison before the first", listed(trial=0), "--trial 0: must be at least 1"),
        Case("a comparison of no list", pair(trial=2), "--trial needs --test_list"),
        Case("the calibration of another model", pair(calibration=calibrated("beta")), "a calibration of beta, the"),
        Case(
            "the calibration of another fit",
            pair(calibration=calibrated("dna", model="0123456789ab")),
            "c.json: a calibration of another model of kind dna",
        ),
        Case("a calibration of several systems", pair(calibration=calibrated("dna", "beta")), "has 2 inputs"),
        Case("a calibration to explain that is not there", pair(calibration="gone.json"), "gone.json: no such file"),
        Case("codes of no development trials", pair(dev_codes=codes("d.npz")), "--dev_codes needs --dev_trials"),
        Case(
            "development trials without labels to explain by",
            pair(dev_trials=lines_of("trials.txt", lambda lines: [line[2:] for line in lines])),
            "has no labels; give its speakers by --list",
        ),
        Case(
            "development trials of one kind",
            pair(dev_trials=lines_of("trials.txt", lambda lines: [line for line in lines if line[0] == "1"])),
            "comparisons of both kinds are needed",
        ),
        Case("a network without encoder", two(encoder=None), "--initial_model and --encoder need each other"),
        Case("codes and an encoder", two(codes=codes()), "leave --codes out"),
        Case("audio files below a prefix", two(audio_path="wav"), "leave --audio_path out"),
        Case("development trials without codes", two(dev_trials=trials_of), "--dev_trials needs --dev_codes here"),
        Case("a speaker network as encoder", two(), "last.pt"),
        Case("an encoder of other embeddings", two(encoder=encoder), "numbers; "),
        Case("an audio file that is not there", two(enrol="gone.wav", encoder=encoder), "gone.wav: cannot be read as"),
        Case("no card to explain with", two(device="cuda"), "sees no GPU; use --device cpu", patch=no_card),
        Case("a scale of no network", pair(wav_scale=2), "--wav_scale needs --initial_model"),
        Case("an entry level of no card", pair(entry_level=0.1), "--entry_level is for --cards"),
        Case("a list for nothing", pair(list=train_of), "--list is for --cards, --audio_path or --dev_trials"),
        Case("a separator for nothing", pair(sep=","), "--sep is for --test_list or --dev_trials"),
        Case("a device for nothing", pair(device="cpu"), "--device is for --initial_model"),
        Case("cards of a comparison", cards(model=model()), "--cards describes a population"),
        Case("cards of no population", cards(list=None), "--cards needs --codes and --list"),
        Case("a list that is of no use", two(list=train_of), "leave --list out"),
        Case("speakers of a comparison", pair(speakers=file("s.csv", SPEAKERS)), "--speakers is for --cards"),
        Case("cards of words", cards(cards="some"), "--cards some: `all`, or numbers"),
        Case("a card that there is not", cards(cards="3,16"), "16 is not one of 0 to 15"),
        Case("a card twice", cards(cards="3,3"), "3 is not one of 0 to 15, or stands there twice"),
        Case(
            "cards of unknown speakers",
            cards(list=lines_of("train.txt", lambda lines: [line.split()[1] for line in lines])),
            "no column speaker",
        ),
        Case("cards of one speaker", cards(list=list_of(lambda rows: rows[:4])), "l.csv: one speaker"),
        Case("a population with a recording twice", cards(list=list_of(lambda rows: rows + rows[:1])), "given twice"),
        Case("cards without codes of all", cards(codes=codes(leave_out=2)), "c.npz: no code of spk0/s1/00000.wav"),
        Case(
            "a speaker without a line", cards(speakers=file("s.csv", "speaker,age\nspk0,1\n")), "no line for spk1, a"
        ),
        Case(
            "a column in two tables",
            cards(
                speakers=file("s.csv", SPEAKERS),
                list=lambda place: file("l.csv", "id,speaker,age\n" + "".join(
                    f"{name},{name.split('/')[0]},1\n" for name in names_of(place)))(place),
            ),
            "its column age is in",
        ),
        Case("recordings under the wrong prefix", cards(audio_path="/nowhere"), "none of 32 recordings can be read"),
        Case("an entry level above one", cards(entry_level=2), "--entry_level 2.0: must be at least"),
        Case("a flag of explain misspelt", cards(speeakers="s.csv"), "nearest: --speakers"),
    ],
}  # fmt: skip
