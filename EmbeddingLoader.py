"""Embeddings with their speakers, and class-balanced batches of them: what train_attributes.py trains and validates on.
Entry points: add_arguments, check(args), read_set, SetLoader, validation_batches, check_same.
"""

from dataclasses import dataclass

import numpy as np
import torch

from audio import class_samplers
from audio.metadata import read_metadata
from engine import distributed
from engine.args import add_bool
from scoring.embeddings import Table, check_source, joined, read_table

SAMPLERS = ("once_per_class", "exhaustive")
RANGES = {"classes_per_batch": (1, None), "samples_per_class": (1, None), "batch_size": (0, None)}


def add_arguments(parser):
    """Add the flags that say what is trained on and how batches are made."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--train_embeddings", nargs="+", default=[], metavar="FILE.npz", help="tables of extract_embeddings.py"
    )
    data.add_argument(
        "--train_list", default="", metavar="FILE", help="recordings to train on: lines `speaker file`, or a CSV file"
    )
    data.add_argument("--valid_embeddings", nargs="+", default=[], metavar="FILE.npz", help="tables to validate on")
    data.add_argument("--valid_list", default="", metavar="FILE", help="recordings that choose best.pt")
    add_bool(
        data,
        "--allow_other_embeddings",
        help="take embeddings of another verifier or sample scale (wav_scale) than those trained on",
    )
    batch = parser.add_argument_group("batches of N classes (speakers) x M samples (recordings)")
    about = "every speaker once an epoch with M of its recordings, or all recordings of all"
    batch.add_argument("--sampler", choices=SAMPLERS, default="once_per_class", help=about)
    batch.add_argument(
        "--classes_per_batch", "--N_classes_per_batch", type=int, default=8, help="N of each process's batch"
    )
    batch.add_argument("--samples_per_class", "--M_samples_per_class", type=int, default=8, help="M")
    batch.add_argument(
        "--batch_size", type=int, default=0, help="N x M recordings; another number is refused (0: N x M)"
    )
    add_bool(batch, "--drop_last", help="leave out the classes, or batches, that do not divide evenly")


def check(args):
    """Refuse flags that lack or exclude each other, and set the size of a batch.

    Raises:
        ValueError: which, and what to do.
    """
    for one, other in (("train_embeddings", "train_list"), ("valid_embeddings", "valid_list")):
        if bool(getattr(args, one)) != bool(getattr(args, other)):
            raise ValueError(f"--{one} and --{other} need each other: vectors, and who speaks")
    if not args.train_list:
        raise ValueError("--train_embeddings and --train_list are required: vectors, and who speaks")
    size = args.classes_per_batch * args.samples_per_class
    if size < 2:
        raise ValueError("--classes_per_batch 1 --samples_per_class 1: BatchNorm needs two recordings in a batch")
    if args.batch_size not in (0, size):
        raise ValueError(
            f"--batch_size {args.batch_size}: a batch is --classes_per_batch {args.classes_per_batch} x "
            f"--samples_per_class {args.samples_per_class} = {size} recordings"
        )
    args.batch_size = size


@dataclass
class LabelledSet:
    """Embeddings on the device: `vectors` (files, dim) float32, `labels` (files,) int64, the rank of the speaker among
    the sorted names `speakers`; `table` they are of, `listed` the line that describes the list."""

    vectors: torch.Tensor
    labels: torch.Tensor
    speakers: list[str]
    table: Table
    listed: str


def read_set(paths: list[str], list_path: str, args, device: torch.device) -> LabelledSet:
    """Read the embeddings and speakers of a list.

    Raises:
        FileNotFoundError, ValueError: a file is missing or wrong, a recording has no embedding or speaker, or the
            tables were made by different networks.
    """
    tables = [read_table(path) for path in paths]
    for table in tables[1:]:
        check_same(tables[0].meta, tables[0].path, table, args)
    listed = read_metadata(list_path)
    speakers, labels = np.unique(listed.require_speakers(), return_inverse=True)
    table = joined(tables).take(listed.ids)
    on_device = (torch.from_numpy(array).to(device) for array in (table.vectors, labels.reshape(-1).astype(np.int64)))
    return LabelledSet(*on_device, speakers.tolist(), table, listed.describe())


def check_same(meta: dict, path: str, table: Table, args):
    """Refuse embeddings of another maker, unless --allow_other_embeddings."""
    if not args.allow_other_embeddings:
        check_source(meta, path, table.meta, table.path)


class SetLoader:
    """Batches (vectors (N * M, dim), labels (N * M,)) of a set, this rank's; its own batch_sampler.

    Nothing waits for the device: an epoch's rows go there once, a batch is taken from the vectors by its rows.
    """

    def __init__(self, data: LabelledSet, args):
        self.data, self.args, self.epoch, self.batch_sampler = data, args, None, self
        self.labels = data.labels.cpu().numpy()
        self.set_epoch(1)

    def set_epoch(self, epoch: int, first_batch: int = 0):
        """Make the batches of `epoch`, a pure function of it and the seed; iteration begins at `first_batch`."""
        self.first_batch = first_batch
        if epoch == self.epoch:
            return
        self.epoch, args, world = epoch, self.args, distributed.world_size()
        generator = torch.Generator().manual_seed(args.seed + epoch)
        size = (args.classes_per_batch, args.samples_per_class)
        if args.sampler == "once_per_class":
            batches = class_samplers.once_per_class(self.labels, *size, args.drop_last, generator)
        else:
            batches = class_samplers.exhaustive(self.labels, *size, generator)
        self.batches = class_samplers.batches_of_rank(batches, distributed.rank(), world, args.drop_last)
        if not len(self.batches):
            raise ValueError(f"an epoch has {len(batches)} batches for {world} processes: give --drop_last False")

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for rows in torch.from_numpy(self.batches[self.first_batch :]).to(self.data.vectors.device):
            yield self.data.vectors[rows], self.data.labels[rows]


def validation_batches(labels: np.ndarray, classes: int, samples: int) -> list[np.ndarray]:
    """Return the rows (files,) of a whole set in a fixed order, cut into batches of `classes` x `samples`.

    The order takes so many samples of each class in turn, so that batches resemble those of the training.
    """
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = by_class[np.lexsort((labels[by_class], place // samples))]
    return np.split(order, range(classes * samples, len(order), classes * samples))
