"""The public face of loading: from lists of files to batches of crops, for training and for evaluation.
Entry points: train_loader(train_list, args, ...) and eval_loader(paths, eval_frames, num_eval, workers);
wave_windows(data, ...) and wave_loader(dataset, ...) for waveform networks; mel_chunks, mel_utterances and mel_loader
for autoencoders of features, which are made in audio/mel_data.py.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from audio.augment import Augmenter
from audio.bad_files import BadFiles, noted
from audio.batch_augment import BatchAugmenter
from audio.batch_speed import Speeds
from audio.crops import crop_samples, eval_crops, eval_starts
from audio.io import AudioFile, read_audio
from audio.lists import TrainList
from audio.mel_data import mel_chunks, mel_loader, mel_utterances  # noqa: F401, a part of this face
from audio.samplers import EpochSampler
from audio.tones import Tones
from audio.training_crops import TrainDataset, finish
from audio.wave_sources import find_recordings
from audio.window_data import WindowDataset, WindowSampler
from audio.windows import SPACING_SECONDS, WINDOW_SECONDS, Windows
from audio.workers import default_workers, watched, worker_settings
from engine.args import add_bool

# Numbers that make sense, see engine.args.check_ranges.
RANGES = {
    "max_frames": (1, 10**6), "crop_seconds": (0, None), "shards_per_block": (0, None),
    "batch_size": (1, None), "nPerSpeaker": (1, None),
    "max_seg_per_spk": (1, None), "nDataLoaderThread": (0, 1024), "check_files": (0, None), "max_bad_files": (0, 100),
    "augment_prob": (0, 1), "augment_bank_gb": (0, None), "time_masks": (0, 100), "time_mask_frames": (0, None),
    "freq_masks": (0, 100), "freq_mask_bands": (0, None), "spec_augment_prob": (0, 1), "time_masks_least": (0, 100),
    "freq_masks_least": (0, 100),
}  # fmt: skip


def add_arguments(parser):
    """Add the flags of training data and augmentation, the same for every trainer."""
    data = parser.add_argument_group("training data")
    data.add_argument(
        "--train_list",
        default="data/train_list.txt",
        help="lines `speaker path`; or shards, which have their own labels: a folder, a .tar file or 'x/train_*.tar'",
    )
    data.add_argument(
        "--train_path",
        default="data/voxceleb2",
        help="prefix of the paths in --train_list, also a folder of packed audio or shards",
    )
    data.add_argument("--max_frames", type=int, default=200, help="training crop in frames of 10 ms")
    data.add_argument(
        "--crop_seconds", type=float, default=0.0, help="training crop in seconds, overrides --max_frames"
    )
    data.add_argument(
        "--batch_size", type=int, default=200, help="speakers per batch and process; batch_size x nPerSpeaker crops"
    )
    data.add_argument("--nPerSpeaker", type=int, default=1, help="utterances of each speaker in a batch")
    data.add_argument("--max_seg_per_spk", type=int, default=500, help="utterances of a speaker used per epoch")
    data.add_argument(
        "--sampler",
        choices=("speakers", "shuffle"),
        default="speakers",
        help="speakers: none twice in a batch; shuffle: any, from shards in the order of --shards_per_block",
    )
    data.add_argument(
        "--shards_per_block",
        type=int,
        default=4,
        help="--sampler shuffle: so many shards at a time are read in random order (0: all, wherever they lie)",
    )
    data.add_argument(
        "--crop_mode",
        choices=("random", "start", "end", "random_contiguous"),
        default="random",
        help="where a training crop lies; random_contiguous: one of those that follow each other from the start",
    )
    add_bool(data, "--keep_last", help="keep the incomplete last batch of --sampler shuffle")
    data.add_argument("--nDataLoaderThread", type=int, default=default_workers(), help="loader processes per process")
    data.add_argument(
        "--check_files", type=int, default=1000, help="headers read per list before the work starts (0: all)"
    )
    data.add_argument(
        "--max_bad_files",
        type=float,
        default=1.0,
        help="percentage of --train_list that may be unreadable (replaced, listed in bad_files.txt); more ends the run",
    )
    augment = parser.add_argument_group("augmentation")
    add_bool(augment, "--augment", help="add a room, music, babble or noise to training crops")
    augment.add_argument(
        "--augment_prob", type=float, default=0.8, help="share of crops augmented, the four kinds alike"
    )
    augment.add_argument("--musan_path", default="data/musan_split", help="folder of {noise,music,speech}/*/*/*.wav")
    augment.add_argument(
        "--rir_path", default="data/RIRS_NOISES/simulated_rirs", help="folder of room responses */*/*.wav"
    )
    augment.add_argument(
        "--augment_device",
        choices=("auto", "cpu", "cuda", "crop"),
        default="auto",
        help="where noise, rooms and speed are computed, a batch at once with the files in memory: cpu: in the loader "
        "processes; cuda: on the GPU of the network; auto: where the network is; crop: crop by crop from the files",
    )
    augment.add_argument(
        "--augment_bank_gb",
        type=float,
        default=2.0,
        help="memory for noise and rooms in GB, once per process; of more files an even selection is kept",
    )
    augment.add_argument(
        "--speed_perturb", default="", help="speed factors, e.g. 0.9,1.1, drawn as often as 1 (empty: off)"
    )
    augment.add_argument(
        "--speed_labels",
        choices=("new", "keep"),
        default="new",
        help="new: a speaker at another speed is another class",
    )
    add_bool(augment, "--spec_augment", help="mask bands and frames of the normalised features")
    add_bool(augment, "--spec_augment_before_norm", help="mask them before they are normalised instead")
    augment.add_argument("--time_masks", type=int, default=1, help="time masks per crop")
    augment.add_argument(
        "--time_masks_least",
        type=int,
        default=None,
        help="draw their number from this up to --time_masks (default: as many)",
    )
    augment.add_argument("--time_mask_frames", type=int, default=10, help="widest time mask in frames of 10 ms")
    augment.add_argument("--freq_masks", type=int, default=1, help="frequency masks per crop")
    augment.add_argument(
        "--freq_masks_least",
        type=int,
        default=None,
        help="draw their number from this up to --freq_masks (default: as many)",
    )
    augment.add_argument("--freq_mask_bands", type=int, default=8, help="widest frequency mask in bands")
    augment.add_argument("--spec_augment_prob", type=float, default=0.6, help="share of crops masked")


def mask_arguments(args) -> dict | None:
    """Return the arguments of audio.masks.spec_augment, None without --spec_augment.

    Raises:
        ValueError: fewest masks above most, or a flag of masks without --spec_augment.
    """
    if not args.spec_augment:
        if args.spec_augment_before_norm:
            raise ValueError("--spec_augment_before_norm says where --spec_augment masks: give that too")
        return None
    for kind in ("time", "freq"):
        least, most = getattr(args, f"{kind}_masks_least"), getattr(args, f"{kind}_masks")
        if least is not None and least > most:
            raise ValueError(f"--{kind}_masks_least {least} is more than --{kind}_masks {most}")
    names = ("time_masks", "time_mask_frames", "freq_masks", "freq_mask_bands", "time_masks_least", "freq_masks_least")
    return {**{name: getattr(args, name) for name in names}, "probability": args.spec_augment_prob}


def parse_speeds(text: str) -> list[Fraction]:
    """Read --speed_perturb, e.g. "0.9,1.1"; the factor 1 always stands first.

    Raises:
        ValueError: no numbers, repeated, or outside 0.5 to 2.
    """
    try:
        factors = [Fraction(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--speed_perturb {text}: write factors separated by commas, e.g. 0.9,1.1") from None
    if any(not Fraction(1, 2) <= f <= 2 or f == 1 for f in factors) or len(set(factors)) < len(factors):
        raise ValueError(
            f"--speed_perturb {text}: different factors from 0.5 to 2 other than 1 (1 is always drawn too)"
        )
    return [Fraction(1), *factors]


def head_classes(args) -> int:
    """Return the classes of the head: nClasses, times the number of speeds where these count as new speakers."""
    return args.nClasses * (len(parse_speeds(args.speed_perturb)) if args.speed_labels == "new" else 1)


class TrainLoader:
    """Batches (wave (speakers, nPerSpeaker, samples) float32 in [-1, 1], labels (speakers,)) on `device`.

    Loader processes read; what is left to do for a whole batch is done here, where the network is.
    """

    def __init__(self, loader: DataLoader, bad_files: BadFiles, device: torch.device, speeds=None, augmenter=None):
        self.loader, self.bad_files, self.device = loader, bad_files, device
        self.batch_sampler, self.speeds, self.augmenter = loader.batch_sampler, speeds, augmenter

    def __iter__(self):
        for batch in noted(watched(self.loader), self.bad_files):
            label = batch["label"].to(self.device, non_blocking=True)
            yield finish(batch, self.device, self.speeds, self.augmenter), label


def train_loader(utterances: TrainList, args, world_size: int = 1, rank: int = 0, device="cpu", say=print):
    """Return the TrainLoader of one rank.

    Args:
        device: where the network is.
        say: called with lines worth reading.

    Raises:
        ValueError: no batch can be filled, or --augment without noise or room files.
    """
    device = torch.device(device)
    speeds = parse_speeds(args.speed_perturb)
    new = args.speed_labels == "new" and len(speeds) > 1
    length = getattr(args, "crop_samples", None) or crop_samples(args.max_frames)
    augmenter = None
    if args.augment:
        # the reference's floor of 1e-4 at its own amplitude, seen from [-1, 1]
        augmenter = Augmenter(args.musan_path, args.rir_path, length, 1e-4 / args.wav_scale**2, args.augment_prob)
    place = augment_place(args.augment_device, device)
    change = Speeds(speeds, length) if place != "crop" and len(speeds) > 1 else None
    batches = None
    if augmenter is not None and place != "crop":
        batches, augmenter = BatchAugmenter(augmenter, args.seed, args.augment_bank_gb), None
        say(batches.describe())
    in_worker = place == "cpu" and (change or batches) is not None
    dataset = TrainDataset(
        utterances, length, args.seed, args.nClasses, speeds, new, augmenter, change, batches, in_worker, args.crop_mode
    )
    sampler = EpochSampler(
        utterances.labels, args.sampler, args.batch_size, args.nPerSpeaker, args.max_seg_per_spk, args.seed,
        world_size, rank, len(speeds), new, args.keep_last, dataset.shards(), args.shards_per_block,
    )  # fmt: skip
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=_as_it_is, **worker_settings(args.nDataLoaderThread))
    share = len(utterances.labels) / world_size
    bad_files = BadFiles(Path(args.save_path) / "bad_files.txt", share, args.max_bad_files, say)
    if in_worker:
        return TrainLoader(loader, bad_files, device)
    return TrainLoader(loader, bad_files, device, change, batches and batches.to(device))


def augment_place(wanted: str, device: torch.device) -> str:
    """Return where augmentation happens, "crop", "cpu" or "cuda", of the flag and of where the network is.

    Raises:
        ValueError: cuda is asked for, but the network is on the CPU.
    """
    if wanted == "auto":
        return device.type if device.type in ("cpu", "cuda") else "cpu"
    if wanted == "cuda" and device.type != "cuda":
        raise ValueError(f"--augment_device cuda: the network is on {device.type}; use auto or cpu")
    return wanted


def _as_it_is(batch):
    return batch


class EvalDataset(Dataset):
    """Evaluation crops of file `index`: float32 (crops, samples) in [-1, 1]."""

    def __init__(self, paths: list[str], eval_frames: int, num_eval: int, length: int = 0):
        self.paths, self.crops = paths, (eval_frames, num_eval, length)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return torch.from_numpy(load_eval_crops(self.paths[index], *self.crops))


def load_eval_crops(path: str, eval_frames: int, num_eval: int, length: int = 0) -> np.ndarray:
    """Read the evenly spaced crops of a file, (num_eval, samples); eval_frames 0 gives the whole file, (1, samples).

    `length`: samples of a crop in place of those of `eval_frames`.
    """
    if eval_frames == 0 and not length:
        return eval_crops(read_audio(path), 0, 1)
    length = length or crop_samples(eval_frames)
    with AudioFile(path) as audio:
        if audio.samples <= length * (num_eval + 1):
            return eval_crops(audio.read(), eval_frames, num_eval, length)
        # of a long file only the crops are read
        starts = eval_starts(audio.samples, length, num_eval)
        return np.stack([audio.read(int(start), length) for start in starts])


def eval_loader(
    paths: list[str], eval_frames: int, num_eval: int, workers: int, batch_files: int = 1, length: int = 0
) -> DataLoader:
    """Return a loader of the files' crops in order: (files, crops, samples), one file at a time for whole files.

    `length`: samples of a crop in place of those of `eval_frames`.
    """
    dataset = EvalDataset(paths, eval_frames, num_eval, length)
    size = 1 if eval_frames == 0 and not length else batch_files
    return DataLoader(dataset, batch_size=size, shuffle=False, **worker_settings(min(workers, len(paths)), keep=False))


class Batches(Dataset):
    """Batches of waves (batch, samples) float32: item i stacks what read(number) returns of the numbers batches[i]."""

    def __init__(self, read, batches: list[list[int]]):
        self.read, self.batches = read, batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return torch.stack([torch.as_tensor(self.read(number)) for number in self.batches[index]])


def batch_loader(dataset: Dataset, workers: int) -> DataLoader:
    """Return a loader of a dataset whose items are whole batches, in their order."""
    return DataLoader(
        dataset, batch_size=None, shuffle=False, **worker_settings(min(workers, len(dataset)), keep=False)
    )


def wave_windows(
    data: str | list[str],
    window_seconds: float = WINDOW_SECONDS,
    spacing_seconds: float = SPACING_SECONDS,
    encoding: str = "linear",
    prefix: str = "",
    say=print,
) -> WindowDataset | Tones:
    """Return the windows of a folder of speakers, a list, several of these as one, or the data set `tones`.

    An item is {"label": int, "samples": (samples,) float32, "utterance": int}; `speakers` are the names of the labels.

    Args:
        prefix: of the paths in lists. say: called with lines worth reading.

    Raises:
        FileNotFoundError, ValueError: see audio.wave_sources.find_recordings.
    """
    if data in ("tones", ["tones"]):
        dataset = Tones(encoding, int(16000 * window_seconds))
    else:
        recordings = find_recordings(data, prefix)
        dataset = WindowDataset(recordings, Windows(recordings.seconds, window_seconds, spacing_seconds), encoding)
    for line in (dataset.describe(), *dataset.notes):
        say(line)
    return dataset


class WaveLoader:
    """Batches (samples (batch, samples) float32, label (batch,), utterance (batch,)) on `device`."""

    def __init__(self, loader: DataLoader, bad_files: BadFiles | None, device: torch.device):
        self.loader, self.bad_files, self.device = loader, bad_files, device
        self.batch_sampler = loader.batch_sampler

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        for batch in noted(watched(self.loader), self.bad_files):
            yield tuple(batch[name].to(self.device, non_blocking=True) for name in ("samples", "label", "utterance"))


def wave_loader(
    dataset, batch_size: int, seed: int = 0, workers: int = 0, world_size: int = 1, rank: int = 0, device="cpu",
    shuffle: bool = True, bad_files: BadFiles | None = None,
) -> WaveLoader:  # fmt: skip
    """Return the loader of one rank; every epoch is all windows in a random order of (seed, epoch), in whole batches.

    Args:
        shuffle: False: the windows in their order, the last incomplete batch too.
        bad_files: told of recordings that cannot be read, which others replace; None: the first is an error.

    Raises:
        ValueError: fewer windows than a batch.
    """
    sampler = WindowSampler(len(dataset), batch_size, seed, world_size, rank, shuffle)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=_as_it_is, **worker_settings(workers))
    return WaveLoader(loader, bad_files, torch.device(device))
