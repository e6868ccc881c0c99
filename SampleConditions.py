"""What each generated sample is to be: its speaker by label or name, and its vector of voice, drawn or given once.
Entry points: add_arguments, check, conditions(args, net, card, classifier), which returns Wanted; read_tables.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import DiffusionNet
from audio.lists import speaker_of
from audio.metadata import read_metadata
from engine.args import add_bool, nearest
from scoring.codes import read_codes
from scoring.embeddings import read_table

LABEL_STREAM = 0x1ABE1  # keeps the draws of labels apart from all others of the same seed


def add_arguments(group):
    """Add the flags that say what a sample is to be."""
    group.add_argument(
        "--labels", nargs="+", default=[], metavar="WORD",
        help="speakers by name, or by number where no name is like it; sample i is of the i-th in turn (default: drawn "
        "at random for each sample)",
    )  # fmt: skip
    group.add_argument("--target_class", "--classifier_class", type=int, default=None, help="one speaker by number")
    add_bool(
        group, "--unlabelled",
        help="tell the model no speaker, which needs --cond_dropout in training: labels are the classifier's alone",
    )  # fmt: skip
    group.add_argument("--cond_vector", default="", metavar="FILE", help=".npy or .txt of a vector or several in turn")
    group.add_argument("--cond_embeddings", default="", metavar="FILE.npz", help="table of embeddings or codes")
    group.add_argument(
        "--cond_speaker", nargs="+", default=[], metavar="NAME",
        help="the mean of this speaker's rows of --cond_embeddings; of several in turn (default: each row in turn)",
    )  # fmt: skip
    group.add_argument(
        "--cond_list", default="", help="lines `speaker file` for the rows of the table (default: their first folder)"
    )
    group.add_argument("--cond_bits", default="", metavar="3,17,40", help="the code with these attributes, from 0, set")
    group.add_argument(
        "--guidance_scale", type=float, default=0.0,
        help="weight of classifier-free guidance by label and vector (0: none)",
    )  # fmt: skip


def check(args):
    """Refuse flags that lack or exclude each other.

    Raises:
        ValueError: which, and what to do.
    """
    if args.labels and args.target_class is not None:
        raise ValueError("--labels and --target_class both name the speaker: leave one out")
    sources = [name for name in ("cond_vector", "cond_embeddings", "cond_bits") if getattr(args, name)]
    if len(sources) > 1:
        raise ValueError(f"--{sources[0]} and --{sources[1]} both give the vector: leave one out")
    if args.cond_speaker and not args.cond_embeddings:
        raise ValueError("--cond_speaker needs --cond_embeddings, the table of its utterances")
    if args.cond_list and not args.cond_speaker:
        raise ValueError("--cond_list says whose the rows of --cond_embeddings are: give --cond_speaker")


@dataclass
class Wanted:
    """What is wanted of sample `index`, the same whenever it is asked.

    `chosen` are the labels in turn, empty where one of `count` is drawn for each sample; `count` is 0 without labels.
    `speakers` are the names of the labels, empty where unknown. `of_model`: the diffusion model takes the label.
    `class_of`: the classifier's class of a label. `vectors` (n, dim) or None are taken in turn; `voices` and `notes`
    (n,) are the speaker of each or "", and what it is.
    """

    chosen: list[int]
    count: int
    seed: int
    speakers: list[str]
    of_model: bool
    class_of: dict[int, int]
    vectors: torch.Tensor | None
    voices: list[str]
    notes: list[str]

    def label(self, index: int) -> int:
        """Return the label of a sample, the same for model and classifier and in every step."""
        if self.chosen:
            return self.chosen[index % len(self.chosen)]
        return int(np.random.default_rng([self.seed, LABEL_STREAM, index]).integers(self.count))

    def rows(self, indices: list[int]):
        """Return labels and vectors for the diffusion model and classes for the classifier, None for none."""
        labels = [self.label(index) for index in indices] if self.count else []
        label = torch.tensor(labels) if self.of_model else None
        target = torch.tensor([self.class_of[label] for label in labels]) if self.class_of else None
        turn = None if self.vectors is None else torch.tensor(indices) % len(self.vectors)
        return label, None if turn is None else self.vectors[turn], target

    def scales(self, scale: float) -> tuple[float, float]:
        """Return the weights of classifier-free guidance by label and by vector."""
        return scale if self.of_model else 0.0, scale if self.vectors is not None else 0.0

    def row(self, index: int) -> dict:
        """Return what the table of samples says of a sample."""
        label = self.label(index) if self.count else ""
        name = self.speakers[label] if self.count and self.speakers else ""
        turn = index % len(self.notes) if self.notes else 0
        voice, note = (self.voices[turn], self.notes[turn]) if self.notes else ("", "")
        return {"speaker": name or voice, "label": label, "condition": note}

    def identity(self) -> dict:
        """Return what the conditions are made of, as plain data."""
        labels = self.chosen or (f"drawn of {self.count}" if self.count else None)
        vectors = None if self.vectors is None else hashlib.sha256(self.vectors.numpy().tobytes()).hexdigest()[:12]
        return {"labels": labels, "told": self.of_model, "vectors": vectors}

    def describe(self) -> str:
        """Return what is wanted, in words."""
        if not self.count and not self.notes:
            return "no condition"
        told = []
        if self.count:
            shown = [f"{label} {self.speakers[label] if self.speakers else ''}".strip() for label in self.chosen[:3]]
            told.append(f"labels {', '.join(shown)}" if shown else f"labels drawn of {self.count}")
        if self.notes:
            told.append(f"vectors {', '.join(self.notes[:3])}")
        return "; ".join(told) + ", ..." * (max(len(self.chosen), len(self.notes)) > 3)


def conditions(args, net, card: dict, classifier=None) -> Wanted:
    """Return what the flags want of a diffusion model, and of a classifier (network, card) where there is one.

    Raises:
        ValueError: a condition that neither takes, that is missing, or that does not exist.
    """
    if args.unlabelled and (net.speakers is None or not net.cond_dropout):
        raise ValueError(f"--unlabelled: {args.checkpoint_path} was not trained to do without labels: leave it out")
    of_model = net.speakers is not None and not args.unlabelled
    names, count = card["meta"].get("speakers"), net.speakers if of_model else 0
    if classifier is not None and not of_model:
        names, count = classifier[1]["meta"].get("speakers"), classifier[0].num_labels
    if (args.labels or args.target_class is not None) and not count:
        why = "is told no label" if args.unlabelled else "was trained without labels"
        raise ValueError(f"{args.checkpoint_path} {why}: leave out --labels and --target_class")
    known = {"meta": {"speakers": names}}, SimpleNamespace(speakers=count)
    chosen = [DiffusionNet.speaker_label(*known, word) for word in args.labels]
    if args.target_class is not None:
        if args.target_class >= count:
            raise ValueError(f"--target_class {args.target_class}: there are the labels 0 to {count - 1}")
        chosen = [args.target_class]
    class_of = {}
    if classifier is not None:
        class_of = classes_of(chosen or range(count), names if of_model else None, classifier, args.classifier_path)
    vectors, voices, notes = vectors_of(args, net)
    if args.guidance_scale and not of_model and vectors is None:
        raise ValueError("--guidance_scale guides to a label or a vector: this model or command has none")
    return Wanted(chosen, count, args.seed, list(names or []), of_model, class_of, vectors, voices, notes)


def classes_of(labels, names, classifier, path: str) -> dict[int, int]:
    """Return the classifier's class of each label: that of the same name where both know names, else of that number.

    Raises:
        ValueError: it has no such class.
    """
    network, card = classifier
    own = card["meta"].get("speakers")
    if names and own:
        absent = [names[label] for label in labels if names[label] not in own]
        if absent:
            raise ValueError(
                f"{path} knows no speaker {absent[0]} (of {len(absent)}){nearest(absent[0], own)}: give --labels"
            )
        return {label: own.index(names[label]) for label in labels}
    if max(labels) >= network.num_labels:
        raise ValueError(f"label {max(labels)}: {path} has the classes 0 to {network.num_labels - 1}: give --labels")
    return {label: label for label in labels}


# ---------------------------------------------------------------- vectors


def vectors_of(args, net) -> tuple[torch.Tensor | None, list[str], list[str]]:
    """Return the vectors (n, cond_dim) that the flags give, the speaker of each or "", and what each is.

    Raises:
        ValueError: the model takes none, needs one, or one of another size; or a file or name that does not exist.
    """
    given = args.cond_vector or args.cond_embeddings or args.cond_bits
    if net.cond_dim is None:
        if given:
            raise ValueError(f"{args.checkpoint_path} was trained without vectors: leave out the --cond_ flags")
        return None, [], []
    if not given:
        if net.cond_dropout == 0:
            raise ValueError(
                f"{args.checkpoint_path} needs a vector of {net.cond_dim} numbers for each sample: give --cond_vector, "
                "--cond_embeddings or --cond_bits"
            )
        return None, [], []
    if args.cond_bits:
        vectors, voices, notes = code_of(args.cond_bits, net.cond_dim)[None], [""], [f"bits {args.cond_bits}"]
    elif args.cond_vector:
        vectors = read_vectors(args.cond_vector)
        voices, notes = [""] * len(vectors), [f"{Path(args.cond_vector).name} {row}" for row in range(len(vectors))]
    else:
        vectors, voices, notes = of_table(args.cond_embeddings, args.cond_speaker, args.cond_list)
    if vectors.shape[1] != net.cond_dim:
        raise ValueError(
            f"{args.cond_vector or args.cond_embeddings}: vectors of {vectors.shape[1]} numbers, the model takes "
            f"{net.cond_dim}"
        )
    return torch.from_numpy(vectors), voices, notes


def code_of(text: str, size: int) -> np.ndarray:
    """Return the code (size,) float32 whose attributes `3,17,40`, counted from 0, are 1.

    Raises:
        ValueError: no such list of numbers, one given twice, or beyond the code.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"--cond_bits {text}: write numbers of attributes, counted from 0, as 3,17,40")
    bits = [int(word) for word in words]
    if len(set(bits)) < len(bits) or max(bits) >= size:
        raise ValueError(f"--cond_bits {text}: different numbers from 0 to {size - 1}, for a code of {size} attributes")
    code = np.zeros(size, np.float32)
    code[bits] = 1
    return code


def read_vectors(path: str) -> np.ndarray:
    """Return the vectors (n, dim) float32 of an .npy file or of a text file, one a line; (dim,) is one.

    Raises:
        FileNotFoundError, ValueError: no such file, or no such numbers in it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--cond_vector {path}: no such file")
    try:
        vectors = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path, ndmin=1)
        vectors = np.atleast_2d(np.asarray(vectors, np.float32))
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise ValueError(f"--cond_vector {path}: no vectors ({' '.join(str(error).split())[:100]})") from None
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise ValueError(f"--cond_vector {path}: {vectors.shape} are no vectors of finite numbers")
    return vectors


def of_table(path: str, names: list[str], listed: str) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the rows of an embedding or code table, or the means of speakers `names`; their speakers; what they are.

    Raises:
        FileNotFoundError, ValueError: no such table, list or speaker.
    """
    ids, vectors = condition_table(path)
    if listed:
        metadata = read_metadata(listed)
        told = dict(zip(metadata.ids, metadata.require_speakers()))
        speakers = [told.get(name, "") for name in ids]
    else:
        speakers = [speaker_of(name) or "" for name in ids]
    if not names:
        return vectors, speakers, ids
    known = sorted(set(speakers) - {""})
    absent = [name for name in names if name not in known]
    if absent:
        raise ValueError(
            f"--cond_speaker {absent[0]}: no row of {path} is of this speaker{nearest(absent[0], known)} (--cond_list "
            "says whose they are)"
        )
    own = np.array(speakers)
    means = np.stack([vectors[own == name].mean(0, dtype=np.float64) for name in names]).astype(np.float32)
    return means, list(names), [f"mean of {int((own == name).sum())} of {name}" for name in names]


def condition_table(path: str) -> tuple[list[str], np.ndarray]:
    """Return the names and vectors (files, dim) float32 of a table of embeddings, or of codes as 0 and 1."""
    try:
        table = read_table(path)
        vectors = table.vectors
    except ValueError as error:
        try:
            table = read_codes(path)
        except ValueError:
            raise error from None
        vectors = table.bits.astype(np.float32)
    return [name.decode() for name in table.names], vectors


def read_tables(paths: list[str]):
    """Return the function of names that gives their vectors (names, dim) as they stand in tables; None without any.

    Raises:
        FileNotFoundError, ValueError: no such table, or tables of different sizes; later: a name that is in none.
    """
    if not paths:
        return None
    rows, size = {}, None
    for path in paths:
        found, vectors = condition_table(path)
        if size not in (None, vectors.shape[1]):
            raise ValueError(f"--cond_embeddings {path}: vectors of {vectors.shape[1]} numbers, {paths[0]} of {size}")
        size = vectors.shape[1]
        rows.update(zip(found, vectors))

    def vectors_of(wanted):
        absent = [name for name in wanted if name not in rows]
        if absent:
            raise ValueError(
                f"--cond_embeddings: no vector of {absent[0]} (of {len(absent)} of {len(wanted)} utterances); names in "
                f"the tables are as {next(iter(rows))}"
            )
        return torch.from_numpy(np.stack([rows[name] for name in wanted]))

    return vectors_of
