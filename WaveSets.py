"""Windows of speech with what is drawn at random for each: what waveform networks are trained and judged on.
Entry points: add_arguments, Sets, read_sets, make_loader, fixed_batches, fixed_loss.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import DatasetLoader
from audio.bad_files import BadFiles
from audio.companding import ENCODINGS
from audio.window_data import held_out
from audio.windows import SPACING_SECONDS, WINDOW_SECONDS
from diffusion.objective import TimeBuckets
from diffusion.samplers import sample_seed
from engine import distributed
from engine.args import nearest

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "batch_size": (1, None), "microbatch": (0, None), "window_seconds": (1e-3, 600), "spacing_seconds": (1e-4, 600),
    "valid_windows": (1, None), "nDataLoaderThread": (0, None), "max_bad_files": (0, 100),
}  # fmt: skip
# of the evaluation: the same noise in all runs and at all steps
NOISE_SEED = 0x0E7A1
GOLDEN = (math.sqrt(5) - 1) / 2


def add_arguments(parser):
    """Add the flags that say what is trained on and in what portions."""
    data = parser.add_argument_group("data")
    parser.add_argument(
        "data_dir", nargs="*", default=[], help="folder <speaker>/.../*.flac|wav|ogg, list of lines `speaker file`, or "
        "tones; several are one",
    )  # fmt: skip
    data.add_argument("--train_path", default="", help="prefix of the paths in lists")
    data.add_argument("--valid_list", nargs="+", default=[], help="folder, list or tones that chooses best.pt")
    data.add_argument("--valid_path", default="", help="prefix of the paths in lists of --valid_list")
    data.add_argument("--valid_windows", type=int, default=256, help="windows of --valid_list that are looked at")
    data.add_argument("--window_seconds", type=float, default=WINDOW_SECONDS, help="length of what a network sees")
    data.add_argument("--spacing_seconds", type=float, default=SPACING_SECONDS, help="between windows of a recording")
    data.add_argument("--encoding", choices=ENCODINGS, default="linear", help="ulaw: samples companded by the mu law")
    data.add_argument("--batch_size", type=int, default=8, help="windows per process and batch")
    data.add_argument(
        "--microbatch", type=int, default=0, help="windows at once, for memory; the step is the same (0: all)"
    )
    data.add_argument("--nDataLoaderThread", type=int, default=DatasetLoader.default_workers(), help="loader processes")
    data.add_argument("--max_bad_files", type=float, default=1.0, help="unreadable recordings that are borne, in %%")


@dataclass
class Sets:
    """`train` and `valid` datasets (None without), the `vectors` (utterances, dim) float32 of each or None, and `notes`
    worth reading."""

    train: object
    valid: object
    vectors: tuple[torch.Tensor | None, torch.Tensor | None]
    notes: list[str]


def read_sets(args, labelled: bool, share: float = 0.0, vectors_of: Callable | None = None) -> Sets:
    """Find the windows to train on and those that choose best.pt.

    Args:
        labelled: the speakers of --valid_list must be among those trained on, and get their labels.
        share: of the utterances, held out where there is no --valid_list.
        vectors_of: function of the names of utterances that returns their vectors.

    Raises:
        FileNotFoundError, ValueError: a source is missing or wrong, too small, or of other speakers.
    """
    notes, sizes = [], (args.window_seconds, args.spacing_seconds, args.encoding)
    train = DatasetLoader.wave_windows(args.data_dir, *sizes, args.train_path, notes.append)
    valid = None
    if args.valid_list:
        valid = DatasetLoader.wave_windows(args.valid_list, *sizes, args.valid_path, notes.append)
        if labelled:
            relabel(valid, train.speakers)
    elif share:
        train, valid = held_out(train, share, args.seed)
        notes.append(f"{valid.utterances} utterances are held out: {share:g} of all, no speaker's last one")
    vectors = tuple(vectors_of(part.names()) if part and vectors_of else None for part in (train, valid))
    return Sets(train, valid, vectors, notes)


def relabel(dataset, speakers: list[str], source: str = "--valid_list"):
    """Give the speakers of a dataset the labels that they have among `speakers`.

    Args:
        source: the flag that the dataset is of, for the message.

    Raises:
        ValueError: one is not among them.
    """
    place = {name: label for label, name in enumerate(speakers)}
    absent = [name for name in dataset.speakers if name not in place]
    if absent:
        raise ValueError(
            f"{source}: speaker {absent[0]} (of {len(absent)}) is beyond the {len(speakers)} classes trained on"
            f"{nearest(absent[0], speakers)}"
        )
    if dataset.speakers != speakers:
        own = np.array([place[name] for name in dataset.speakers])
        dataset.recordings.list.labels = own[dataset.recordings.list.labels]
        dataset.speakers = list(speakers)


def draw(seeds: list[int], samples: int, device, more: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return t (batch,) and u (batch, 2 + more) of U(0, 1) and eps (batch, samples) of N(0, 1), each row from its
    seed."""
    uniform, noise = [], []
    for seed in seeds:
        generator = torch.Generator(device).manual_seed(seed)
        first = torch.rand(3, generator=generator, device=device)
        noise.append(torch.randn(samples, generator=generator, device=device))
        uniform.append(torch.cat([first, torch.rand(more, generator=generator, device=device)]))
    uniform = torch.stack(uniform)
    return uniform[:, 0], uniform[:, 1:], torch.stack(noise)


class DrawnLoader:
    """Batches (samples, label, t, eps, u, vector) of a loader of windows: see draw(); vector (batch, 0) without any.

    The draws of a window follow from the seed and its number in the run alone, so that batches, micro-batches and
    processes change nothing, nor does going on from a checkpoint.
    """

    def __init__(self, loader, args, vectors: torch.Tensor | None = None, more: int = 0):
        self.loader, self.batch_sampler, self.vectors = loader, loader.batch_sampler, vectors
        self.seed, self.batch_size, self.more = args.seed, args.batch_size, more

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple]:
        first = (self.batch_sampler.epoch - 1) * len(self) + self.batch_sampler.first_batch
        for number, (samples, label, utterance) in enumerate(self.loader, first):
            start = (number * distributed.world_size() + distributed.rank()) * self.batch_size
            seeds = [sample_seed(self.seed, start + row) for row in range(len(samples))]
            t, u, eps = draw(seeds, samples.shape[1], samples.device, self.more)
            yield samples, label, t, eps, u, rows_of(self.vectors, utterance, samples)


def rows_of(vectors, utterance, like):
    """Return the vectors of utterances on the device of `like`, (batch, 0) where there are none."""
    if vectors is None:
        return like.new_empty(len(utterance), 0)
    return vectors[utterance.to(vectors.device)].to(like.device, non_blocking=True)


def make_loader(sets: Sets, args, device, more: int = 0) -> DrawnLoader:
    """Return this rank's batches to train on, with `more` numbers of U(0, 1) for each window at the end of its u."""
    rank, world = distributed.rank(), distributed.world_size()
    bad = BadFiles(Path(args.save_path) / "bad_files.txt", sets.train.utterances / world, args.max_bad_files)
    loader = DatasetLoader.wave_loader(
        sets.train, args.batch_size, args.seed, args.nDataLoaderThread, world, rank, device, bad_files=bad
    )
    vectors = sets.vectors[0]
    return DrawnLoader(loader, args, None if vectors is None else vectors.to(device), more)


def fixed_batches(sets: Sets, args, device) -> Iterator[tuple]:
    """Yield (samples, label, t, eps, vector) of --valid_windows windows, the same ones with the same draws every time.

    Windows lie evenly over the set, times evenly in [0, 1].
    """
    dataset, count = sets.valid, min(args.valid_windows, len(sets.valid))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int)
    for start in range(0, count, args.batch_size):
        numbers = range(start, min(start + args.batch_size, count))
        batch = dataset.__getitems__([int(index) for index in chosen[numbers.start : numbers.stop]])
        samples, label = batch["samples"].to(device), batch["label"].to(device)
        _, _, eps = draw([sample_seed(NOISE_SEED, number) for number in numbers], samples.shape[1], device)
        t = torch.tensor([(0.5 + number * GOLDEN) % 1 for number in numbers], device=device)
        yield samples, label, t, eps, rows_of(sets.vectors[1], batch["utterance"], samples)


@torch.no_grad()
def fixed_loss(losses_of: Callable, sets: Sets, args, device) -> dict[str, float]:
    """Return the loss of fixed_batches(), by quarters of the time too, and what it chooses a checkpoint by.

    Args:
        losses_of: function of samples, label, t, eps and vector that returns the loss of each window.
    """
    buckets, total, count = TimeBuckets(size=args.valid_windows, device=device), 0, 0
    for samples, label, t, eps, vector in fixed_batches(sets, args, device):
        losses = losses_of(samples, label, t, eps, vector)
        buckets.add(t, losses)
        total, count = total + losses.double().sum(), count + len(losses)
    loss = float(total) / count
    return {"valid_loss": loss, **buckets.named_means("valid_"), "choose": loss}
