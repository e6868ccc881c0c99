"""What a user can get wrong in extract_embeddings.py and score.py; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import json

import numpy as np
from wrong_inputs import Case, file, folder, lines_of, no_card, saved, scores_of, trials_of

from scoring.embeddings import Table, write_table

# ---------------------------------------------------------------- how the inputs are made


def words_of(place, flags):
    made = {name: value(place) if callable(value) else value for name, value in flags.items()}
    pairs = ([f"--{name}", *(value if isinstance(value, list) else [value])] for name, value in made.items())
    return [word for pair in pairs for word in pair if word is not None]


def best(place):
    return place.trained / "checkpoints" / "last.pt"


def extract(**changes):
    """Return a maker of the flags of an extraction of the trials' files; None leaves a flag out."""

    def flags(place):
        given = {
            "initial_model": best, "list": trials_of, "path": place.corpus / "wav", "out": place.folder / "e.npz",
            "nDataLoaderThread": 0, "device": "cpu", **changes,
        }  # fmt: skip
        return words_of(place, {name: value for name, value in given.items() if value is not None})

    return flags


def table(name="e.npz", dim=8, leave_out=0, broken=False):
    """Return a maker of a table of random embeddings of the corpus."""

    def make(place):
        names = sorted(
            {word for line in (place.corpus / "train.txt").read_text().splitlines() for word in line.split()[1:]}
        )
        names = names[leave_out:]
        draw = np.random.default_rng(0)
        vectors = draw.standard_normal((len(names), dim)).astype(np.float32)
        if broken:
            vectors[3, 1] = np.nan
        stored = Table(np.array([n.encode() for n in names]), vectors, np.full(len(names), 0.9, np.float32), {})
        write_table(place.folder / name, stored)
        return place.folder / name

    return make


def scored(**changes):
    """Return a maker of the flags of score.py on random embeddings; None leaves a flag out."""

    def flags(place):
        given = {
            "embeddings": table(), "test_list": trials_of, "save_path": place.folder / "out", "bootstrap": 0, **changes,
        }  # fmt: skip
        return words_of(place, {name: value for name, value in given.items() if value is not None})

    return flags


def train_of(place):
    return place.corpus / "train.txt"


def dev(place):
    """Write half of the trials as a list to calibrate on."""
    return lines_of("trials.txt", lambda lines: lines[:24])(place)


def calibrated(**changes):
    """Return a maker of a calibration file with changes."""
    values = {"inputs": ["raw"], "scales": [1.0], "offset": 0.0, "prior": 0.5, "fitted_on": {}, **changes}
    return file("c.json", json.dumps(values))


def of_this_list(place):
    from audio.lists import read_trial_list

    return calibrated(fitted_on={"hash": read_trial_list(place.corpus / "trials.txt").hash})(place)


def other_table(place):
    """Write a table that another checkpoint made where the new one is to go."""
    return table("e.npz")(place)


BACKEND = {"backend_table": table("b.npz"), "backend_list": train_of}
COHORT = {"cohort": table("c.npz"), "cohort_list": train_of}

# ---------------------------------------------------------------- the cases

CASES = {
    "extract_embeddings.py": [
        Case("no checkpoint", extract(initial_model=None), "--initial_model is required"),
        Case("a checkpoint that is not there", extract(initial_model="gone.pt"), "checkpoint gone.pt: no such file"),
        Case("text as checkpoint", extract(initial_model=file("x.pt", "text")), "x.pt: "),
        Case(
            "a foreign checkpoint without `--model`",
            extract(initial_model=saved(lambda payload: {"state_dict": payload["state_dict"]})),
            "x.pt does not say what network it is of",
        ),
        Case("another network than the checkpoint's", extract(model="FastECAPA"), "not --model FastECAPA"),
        Case("no recordings", extract(list=None), "give either --list or --folder"),
        Case("a list and a folder", extract(folder=folder("d", "a.wav")), "give either --list or --folder"),
        Case("no such list", extract(list="gone.txt"), "gone.txt: no such file"),
        Case("an empty list", extract(list=file("l.txt", "")), "l.txt: holds no file"),
        Case("a line of four words", extract(list=file("l.txt", "a.wav\n1 a b c\n")), "l.txt, line 2: expected `file`"),
        Case("audio as a list", extract(list=file("l.txt", b"RIFF\xff\xfe\0\0WAVE")), "l.txt: not a text file"),
        Case("no such CSV", extract(list="gone.csv"), "gone.csv: no such file"),
        Case(
            "a CSV without the column",
            extract(list=file("l.csv", "file\na.wav\n")),
            "l.csv: none of the columns id, audio, path",
        ),
        Case("a CSV with a gap", extract(list=file("l.csv", "path,x\na.wav,1\n,2\n")), "l.csv, line 3: no id"),
        Case("a CSV that is audio", extract(list=file("l.csv", b"RIFF\xff\xfe\0\0WAVE")), "l.csv: not a text file"),
        Case("no such folder", extract(list=None, path=None, folder="gone"), "--folder gone: no such folder"),
        Case(
            "a folder without audio",
            extract(list=None, path=None, folder=folder("d", "a.txt")),
            "holds no .wav, .flac, .ogg",
        ),
        Case("the wrong prefix", extract(path="/nowhere"), "none of 32 files could be embedded, e.g. /nowhere/spk0"),
        Case("no table to write", extract(out=None), "--out (missing): the table's name must end in .npz"),
        Case("a table of another kind", extract(out="e.csv"), "--out e.csv: the table's name must end in .npz"),
        Case("a table by another checkpoint in the way", extract(out=other_table), "e.npz was made with another"),
        Case(
            "another file as the table",
            extract(out=file("e.npz", "text")),
            "e.npz: damaged or not an .npz file",
        ),
        Case("a folder that is a file", extract(out=lambda place: file("t", "")(place) / "e.npz"), "cannot be made"),
        Case("crops and windows", extract(crop_seconds=1, window_seconds=1), "exclude each other"),
        Case("a step without windows", extract(hop_seconds=1), "--hop_seconds needs --window_seconds"),
        Case("crops too short", extract(crop_seconds=0.01), "--crop_seconds 0.01: must be at least 0.5"),
        Case("windows too short", extract(window_seconds=0.01), "--window_seconds 0.01: must be at least 0.5"),
        Case("a crop of less than nothing", extract(crop_seconds=-1), "--crop_seconds -1.0: must be at least 0"),
        Case("no crop", extract(crop_seconds=1, num_crops=0), "--num_crops 0: must be at least 1"),
        Case("no seconds", extract(max_seconds=[2, 0]), "--max_seconds 2.0 0.0: different numbers above 0"),
        Case("seconds that are a word", extract(max_seconds="all"), "--max_seconds"),
        Case("a batch of less than nothing", extract(batch_seconds=-1), "--batch_seconds -1.0: must be at least 0"),
        Case("no card", extract(device="cuda"), "sees no GPU; use --device cpu", patch=no_card),
    ],
    "score.py": [
        Case("no embeddings", scored(embeddings=None), "--embeddings is required"),
        Case("no trials", scored(test_list=None), "--test_list is required"),
        Case("embeddings that are not there", scored(embeddings="gone.npz"), "gone.npz: no such file"),
        Case("text as embeddings", scored(embeddings=file("e.npz", "text")), "e.npz: damaged or not an .npz file"),
        Case("half a table", scored(embeddings=lambda place: halved(place)), "e.npz: damaged or not an .npz file"),
        Case("embeddings that are NaN", scored(embeddings=table(broken=True)), "'vectors' holds numbers that are not"),
        Case("embeddings of other files", scored(embeddings=table(leave_out=3)), "no embedding of spk0/s1/00000.wav"),
        Case("a train list as trials", scored(test_list=file("t.txt", "1 a b\n\nc\n")), "t.txt, line 3: expected"),
        Case(
            "trials of one kind only",
            scored(test_list=lines_of("trials.txt", lambda lines: [x for x in lines if x[0] == "1"])),
            "holds no impostor trial",
        ),
        Case("a normalisation that does not exist", scored(score_norm="a-norm"), "--score_norm"),
        Case("a normalisation without cohort", scored(score_norm="as-norm"), "--score_norm as-norm needs --cohort"),
        Case("a cohort that is not there", scored(cohort="gone.npz"), "gone.npz: no such file"),
        Case("a checkpoint without cohort", scored(cohort=best), "last.pt: holds no cohort"),
        Case(
            "a cohort of another size",
            scored(cohort=table("c.npz", dim=5), score_norm="s-norm"),
            "embeddings have 8 numbers, those of the cohort 5",
        ),
        Case(
            "cohort speakers that are not in its table",
            scored(cohort=table("c.npz", leave_out=2), cohort_list=train_of),
            "no embedding of spk0/s1/00000.wav (of 2 of 32 files)",
        ),
        Case(
            "speakers of one file each",
            scored(cohort=table("c.npz"), cohort_list=lines_of("train.txt", lambda lines: lines[::4])),
            "none of 8 speakers has 2 files",
        ),
        Case(
            "a cohort of one", scored(**COHORT, score_norm="s-norm", cohort_size=1), "--cohort_size 1: must be at least"
        ),
        Case("a cohort list alone", scored(cohort_list=train_of), "--cohort_list needs --cohort"),
        Case("a mean of another size", scored(mean_from=table("m.npz", dim=5)), "the mean to subtract 5"),
        Case("PLDA from nothing", scored(score="plda"), "need --backend_table with --backend_list"),
        Case("LDA from nothing", scored(lda=3), "need --backend_table with --backend_list"),
        Case("LDA to too many directions", scored(lda=8, **BACKEND), "--lda 8: 8 speakers and 8 numbers"),
        Case("LDA and whitening", scored(lda=3, whiten=True, **BACKEND), "leave --whiten out"),
        Case("a backend for nothing", scored(**BACKEND), "--backend_table is for --lda, --whiten or --score plda"),
        Case("a backend table alone", scored(lda=3, backend_table=table("b.npz")), "need each other"),
        Case("a backend that is not there", scored(backend="gone.npz"), "gone.npz: no such file"),
        Case("embeddings as backend", scored(backend=table("b.npz")), "b.npz: not a file of this kind"),
        Case("the test list to calibrate on", scored(calibrate_list=trials_of), "or give --allow_same_list"),
        Case("a calibration of the test list", scored(calibration=of_this_list), "or give --allow_same_list"),
        Case("a calibration that is not there", scored(calibration="gone.json"), "calibration gone.json: no such file"),
        Case("text as calibration", scored(calibration=file("c.json", "text")), "c.json: not JSON"),
        Case(
            "JSON of another kind", scored(calibration=file("c.json", "{}")), "c.json: not a calibration, its 'inputs'"
        ),
        Case("a calibration with a gap", scored(calibration=calibrated(scales=[])), "0 scales for 1 inputs"),
        Case(
            "a calibration of other scores",
            scored(calibration=calibrated(inputs=["as-norm"])),
            "the calibration is of as-norm; these flags give raw",
        ),
        Case(
            "trials without labels to calibrate on",
            scored(calibrate_list=lines_of("trials.txt", lambda lines: [line[2:] for line in lines])),
            "has no labels: nothing can be calibrated on it",
        ),
        Case(
            "two calibrations", scored(calibrate_list=dev, calibration=calibrated()), "give either --calibrate_list or"
        ),
        Case(
            "embeddings for no list to calibrate on",
            scored(calibrate_embeddings=table("d.npz")),
            "--calibrate_embeddings needs --calibrate_list",
        ),
        Case("a prior of one", scored(calibrate_list=dev, llr_prior=1), "--llr_prior 1.0: must be at least"),
        Case("probabilities without calibration", scored(llr_prior=0.1), "--llr_prior needs --calibrate_list"),
        Case("an unknown quality measure", scored(calibrate_list=dev, quality="snr"), "--quality snr: one of seconds"),
        Case("quality without calibration", scored(quality="seconds"), "--quality needs --calibrate_list"),
        Case(
            "the quality of no cohort", scored(calibrate_list=dev, quality="cohort"), "--quality cohort needs --cohort"
        ),
        Case(
            "a quality that is always the same",
            scored(calibrate_list=dev, quality="seconds"),
            "calibration: seconds mean has one value",
        ),
        Case("fusion without calibration", scored(fuse=scores_of), "--fuse needs --calibrate_list"),
        Case(
            "fusion of a system that is not calibrated",
            scored(fuse=scores_of, calibrate_list=dev),
            "--fuse names 1 files, --calibrate_fuse 0",
        ),
        Case(
            "scores of other trials to fuse",
            scored(
                fuse=file("s.txt", "1 a b\n"), calibration=calibrated(inputs=["raw", "system 2"], scales=[1.0, 1.0])
            ),
            "s.txt, line 1: a b is no trial of",
        ),
        Case("groups without speakers", scored(subgroups="gender"), "--subgroups needs --speakers"),
        Case("speakers without groups", scored(speakers=file("s.csv", "speaker,a\n")), "--speakers needs --subgroups"),
        Case("speakers that are not there", scored(speakers="gone.csv", subgroups="a"), "--speakers gone.csv: no such"),
        Case(
            "no column of speakers",
            scored(speakers=file("s.csv", "name,a\nx,1\n"), subgroups="a"),
            "no column `speaker` (columns: name, a)",
        ),
        Case(
            "a speaker twice",
            scored(speakers=file("s.csv", "speaker,a\nx,1\nx,2\n"), subgroups="a"),
            "s.csv, line 3: x stands there twice",
        ),
        Case(
            "a group that is no column",
            scored(speakers=file("s.csv", "speaker,a\nx,1\n"), subgroups="age"),
            "--subgroups age: no such column",
        ),
        Case(
            "bounds that are words",
            scored(speakers=file("s.csv", "speaker,a\nx,1\n"), subgroups="a:old"),
            "--subgroups a:old: bounds are numbers",
        ),
        Case(
            "bounds that fall",
            scored(speakers=file("s.csv", "speaker,a\nx,1\n"), subgroups="a:3:2"),
            "--subgroups a:3:2: bounds must rise",
        ),
        Case(
            "speakers of another corpus",
            scored(speakers=file("s.csv", "speaker,a\nx,1\n"), subgroups="a"),
            "8 of 8 speakers of the trials are not in it: spk0",
        ),
        Case("seconds without a table", scored(short_embeddings="2"), "write seconds=table"),
        Case("seconds that are a word", scored(short_embeddings="short=e.npz"), "write seconds=table"),
        Case("a table of seconds that is not there", scored(short_embeddings="2=gone.npz"), "gone.npz: no such file"),
        Case("a file in the way", scored(save_path=file("taken", "")), "choose another --save_path"),
        Case("fewer draws than none", scored(bootstrap=-1), "--bootstrap -1: must be at least 0"),
        Case("a flag misspelt", scored(score_nrom="s-norm"), "nearest: --score_norm"),
    ],
}


def halved(place):
    """Write the first half of a table."""
    path = table()(place)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
