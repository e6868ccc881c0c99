"""What a user can get wrong with statistics files, combined folders and LibriSpeech; see wrong_cases.py.
Entry point: CASES, as in wrong_cases.py.
"""

import shutil

import numpy as np
from wrong_cases_data import words
from wrong_inputs import Case, file, folder

from scoring.embeddings import write_npz
from scoring.feature_statistics import gather, write_statistics

SIZE, CLASSES, COUNT = 6, 4, 20


def statistics(name="b.npz", size=SIZE, count=COUNT, features=True, change=None, **meta):
    """Return a maker of a statistics file of random samples; change(arrays) changes what it holds."""

    def make(place):
        draw = np.random.default_rng(0)
        logits = draw.standard_normal((count, CLASSES))
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        path = place.folder / name
        write_statistics(path, gather(draw.standard_normal((count, size)), log_probs, meta, features))
        if change:
            with np.load(path) as held:
                arrays = dict(held)
            change(arrays)
            write_npz(path, **arrays)
        return path

    return make


def compared(other, *more, one=None):
    """Return a maker of the command line of a comparison of a right file with another."""

    def flags(place):
        first = (one or statistics("a.npz"))(place)
        made = [word(place) if callable(word) else word for word in (other, *more)]
        return [first, *made]

    return flags


def setting(name, value, *index):
    """Return a change that sets one number of an array, or drops the array where the value is None."""

    def change(arrays):
        if value is None:
            del arrays[name]
        else:
            arrays[name][index] = value

    return change


def replacing(**arrays):
    """Return a change that puts arrays in the place of those there."""
    return lambda held: held.update({name: np.asarray(array) for name, array in arrays.items()})


def halved(place):
    """Write the first half of a statistics file."""
    path = statistics()(place)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def corpus(place):
    """Copy the recordings: a folder that is looked through keeps what was found."""
    return shutil.copytree(place.corpus / "wav", place.folder / "corpus")


def loose(place):
    """Copy the recordings, one of them beside the folders of the speakers."""
    copy = shutil.copytree(place.corpus / "wav", place.folder / "wav")
    shutil.copy(copy / "spk0/s1/00000.wav", copy / "loose.wav")
    return copy


def spaced(place):
    """Copy a speaker's recordings into a folder with a space in its name."""
    return shutil.copytree(place.corpus / "wav/spk0", place.folder / "my data/spk0").parent


CASES = {
    "stat_compare.py": [
        Case("no statistics", lambda place: [], "STAT_1.npz, STAT_2.npz"),
        Case("one file only", lambda place: [statistics("a.npz")(place)], "required: STAT_2.npz"),
        Case("statistics that are not there", compared("gone.npz"), "gone.npz: no such file"),
        Case("text as statistics", compared(file("b.npz", "text")), "b.npz: damaged or not an .npz file"),
        Case("half a file", compared(halved), "b.npz: damaged or not an .npz file"),
        Case(
            "embeddings as statistics",
            compared(statistics(change=setting("mean", None))),
            "b.npz: not a file of this kind, it holds no 'mean'",
        ),
        Case(
            "objects in the file",
            compared(statistics(change=replacing(mean=np.array([None], object)))),
            "b.npz: damaged or not an .npz file",
        ),
        Case("other numbers of features", compared(statistics(size=8)), "a.npz has 6 features, "),
        Case(
            "a covariance of another size",
            compared(statistics(change=replacing(cov=np.eye(5)))),
            "b.npz: its mean has 6 numbers, its covariance is (5, 5)",
        ),
        Case(
            "a mean that is NaN",
            compared(statistics(change=setting("mean", np.nan, 2))),
            "b.npz: its 'mean' holds numbers that are not finite",
        ),
        Case(
            "a covariance that is infinite",
            compared(statistics(change=setting("cov", np.inf, 2, 2))),
            "b.npz: its 'cov' holds numbers that are not finite",
        ),
        Case(
            "a covariance that is lopsided",
            compared(statistics(change=setting("cov", 5.0, 0, 3))),
            "b.npz: its 'cov' is not symmetric, so no covariance",
        ),
        Case(
            "negative variances",
            compared(statistics(change=setting("cov", -5.0, 1, 1))),
            "b.npz: its 'cov' has negative variances, so it is no covariance",
        ),
        Case(
            "probabilities that do not sum to 1",
            compared(statistics(change=setting("probs", 0.9, slice(None), 0))),
            "b.npz: its 'probs' are no probabilities",
        ),
        Case(
            "probabilities that are NaN",
            compared(statistics(change=setting("probs", np.nan, 3, 0))),
            "b.npz: its 'probs' holds numbers that are not finite",
        ),
        Case(
            "features of another size",
            compared(statistics(change=replacing(features=np.zeros((COUNT, 3), np.float32)))),
            "b.npz: its features have 3 numbers, its mean 6",
        ),
        Case(
            "two numbers of samples",
            compared(statistics(change=replacing(count=np.int64(7)))),
            "b.npz: it does not say one number of samples (probs 20, features 20, count 7)",
        ),
        Case(
            "statistics by different classifiers",
            compared(statistics(checkpoint="b.pt", sha256="b"), one=statistics("a.npz", checkpoint="a.pt", sha256="a")),
            "give --allow_other_classifier",
        ),
        Case(
            "precision of files without features",
            compared(statistics(features=False), "--precision_recall"),
            "b.npz holds no features; stat_generate.py stores them",
        ),
        Case(
            "precision of too few samples",
            compared(statistics(count=3), "--precision_recall"),
            "precision and recall: 3 and 20 samples; more than 3 each are needed",
        ),
        Case("neighbours of nothing", compared(statistics(), "--neighbours", 5), "--neighbours is for --precision_rec"),
        Case("a bootstrap of less than nothing", compared(statistics(), "--bootstrap", -1), "--bootstrap -1: must be"),
        Case("splits of less than nothing", compared(statistics(), "--splits", -1), "--splits -1: must be"),
        Case(
            "a report below a file",
            compared(statistics(), "--save_path", lambda place: file("t", "")(place) / "out"),
            "t/out: cannot be made",
        ),
    ],
    "dataprep.py": [
        Case("a corpus nobody knows", words("--download", "timit"), "'timit' is none of voxceleb, librispeech"),
        Case(
            "a part that LibriSpeech has not",
            words("--download", "librispeech", "--archives", "train-clean"),
            "--archives train-clean: fits none of train-clean-100, train-clean-360, ",
        ),
        Case("one folder to combine", words("--combine", corpus), "give two folders or lists, or more"),
        Case(
            "a folder to combine that is not there", words("--combine", corpus, "gone"), "gone: no such folder or lis"
        ),
        Case("an empty folder to combine", words("--combine", corpus, folder("empty")), "empty: holds no .wav, "),
        Case(
            "recordings beside the speakers",
            words("--combine", corpus, loose),
            "loose.wav: lies beside the folders of speakers",
        ),
        Case("a space in a path", words("--combine", corpus, spaced), "has white space, which separates the fields"),
        Case("an index of no folder", words("--index", "gone"), "--index gone: no such folder"),
    ],
}
