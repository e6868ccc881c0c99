"""Autoencoders of features on a list of recordings: scores, codes in use, and what a verifier still recognises.
Entry points: Subject, load, load_all, over_recordings, measure_all, hear_all.
"""

import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

import AutoencoderNet
import DatasetLoader
import Reconstruction
from audio.io import read_audio
from audio.workers import watched
from diffusion.samplers import sample_seed
from engine import distributed
from MelVerifier import MelVerifier, heard_frames

IDLE_NATS = 0.01  # a channel of a VAE with a smaller KL divergence at a position carries nothing


class Subject(NamedTuple):
    """An autoencoder to be measured: its `name` in tables, file, network, card and features."""

    name: str
    path: str
    net: torch.nn.Module
    card: dict
    features: AutoencoderNet.Features


class Recordings(NamedTuple):
    """Files by the names that lists have for them: which are `scored`, and which are `judged` by a verifier."""

    names: list[str]
    paths: list[str]
    scored: np.ndarray
    judged: np.ndarray

    def key(self, number: int) -> int:
        """Return what random draws for a recording follow from, beside the seed: its name, in whatever list."""
        return zlib.crc32(self.names[number].encode())


def load(path: str, device, ema: str | None) -> Subject:
    """Return the autoencoder of a checkpoint, called like its file.

    Raises:
        FileNotFoundError, ValueError: the file is missing, holds no autoencoder, or does not say its features.
    """
    net, card = AutoencoderNet.load(path, device, ema)
    try:
        return Subject(Path(path).stem, path, net, card, AutoencoderNet.features_of(card, device))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def load_all(paths: list[str], ema: str | None, verifier: MelVerifier | None) -> list[Subject]:
    """Return the autoencoders of checkpoints, on the CPU, each called like its run folder, or like its file.

    Raises:
        FileNotFoundError, ValueError: a file is missing or holds no autoencoder, or the verifier knows other features.
    """
    found = []
    for path in paths:
        found.append(load(path, "cpu", ema))
        if verifier is not None:
            verifier.check(found[-1].features.options, path)
    of_run = [Path(path).parent.name == "checkpoints" for path in paths]
    names = [Path(path).resolve().parents[1].name if run else Path(path).stem for path, run in zip(paths, of_run)]
    twice = [names.count(name) > 1 for name in names]
    names = [f"{name}_{Path(path).stem}" if again else name for name, path, again in zip(names, paths, twice)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two checkpoints would be called {name}: give each once, of run folders of other names")
    return [subject._replace(name=name) for subject, name in zip(found, names)]


# ---------------------------------------------------------------- recordings


class Waves(Dataset):
    """The recordings of `numbers`: (wave (samples,), its noisy version, or None without)."""

    def __init__(self, found: Recordings, numbers: list[int], noisy=None):
        self.found, self.numbers, self.noisy = found, numbers, noisy

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        wave = read_audio(self.found.paths[number])
        return wave, None if self.noisy is None else self.noisy(wave, 0, self.found.key(number))[0]


@torch.inference_mode()
def features_of(wave: np.ndarray, features, device, path: str):
    """Return normalised features (1, bins, frames) of a wave (samples,), and which frames (frames,) are speech.

    Raises:
        ValueError: the wave is too short for a frame (it is named).
    """
    try:
        mel, speech = features(torch.as_tensor(wave).to(device)[None])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return mel, speech[0]


def over_recordings(found: Recordings, features, each, args, device, words: str, only=None, noisy=None) -> tuple:
    """Call each(number, x, target, speech) for all recordings, shared out over the ranks; every rank gets all.

    Args:
        each: returns {name: number or array} of a recording, and {name: array} that is summed over all.
        words: for the progress bar. only: (recordings,) bool, which are looked at; None for all.
        noisy: an audio.noisy_versions.NoisyVersions for `x`, of which `target` is clean; None: they are the same.

    Returns:
        {name: array (recordings, ...)} in the order of those that have the name, and the sums.
    """
    rank, world = distributed.rank(), distributed.world_size()
    numbers = list(range(len(found.names))) if only is None else np.flatnonzero(only).tolist()
    own, rows, sums = numbers[rank::world], {}, {}
    waves = Waves(found, own, noisy)
    loader = watched(DatasetLoader.batch_loader(waves, args.nDataLoaderThread)) if own else ()
    progress = tqdm(zip(own, loader), words, len(own), unit="file", disable=True if rank else None, leave=False)
    for number, (wave, other) in progress:
        target, speech = features_of(wave, features, device, found.paths[number])
        x = target if other is None else features_of(other, features, device, found.paths[number])[0]
        values, totals = each(number, x, target, speech)
        rows[number] = values
        for name, value in totals.items():
            sums[name] = sums.get(name, 0) + value
    parts = distributed.gather_objects((rows, sums))
    rows = {number: values for part, _ in parts for number, values in part.items()}
    table = {}
    for number in sorted(rows):
        for name, value in rows[number].items():
            table.setdefault(name, []).append(value)
    # in the order of the ranks, so that all have the same
    totals = {name: sum(part[name] for _, part in parts if name in part) for name in {n for _, p in parts for n in p}}
    return {name: np.stack(values) for name, values in table.items()}, totals


# ---------------------------------------------------------------- measuring


def noise_of(net, frames: int, seed: int, device) -> torch.Tensor:
    """Return standard normal numbers of the shape of the latents of one utterance, by a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, net.latent_channels, *net.pair.shape(frames), generator=generator).to(device)


def measure_all(subject: Subject, found: Recordings, args, device, verifier=None, noisy=None) -> tuple[dict, dict]:
    """Reconstruct all recordings; return what each gives (recordings, ...), and sums over all scored ones.

    Of scored recordings: the names of Reconstruction.SCORES (those of a VAE again with _sampled where that is asked
    for), log_perplexity, and `bin_errors` (bins,). Of judged ones: `vector`, the verifier's embedding of what is left
    of the frames of speech. Summed: `usage` (groups, codewords), or `kl_per_channel` with its `positions`.
    """
    net, longest = subject.net.to(device), round(100 * args.longest_seconds)
    features = subject.features.to(device)

    def each(number, x, target, speech):
        values, totals, kept = {}, {}, heard_frames(speech)
        if found.scored[number]:
            own, clean = (x[..., kept], target[..., kept]) if args.speech_only else (x, target)
            out = Reconstruction.measure(net, own, clean, longest)
            error = (out.mean - clean[0]).double().square().mean(1).cpu().numpy()
            values |= {**out.scores, "bin_errors": error, "frames": own.shape[2], "speech": int(speech.sum())}
            if out.codes is not None:
                totals["usage"] = Reconstruction.usage_of(out.codes, net.quantiser.codewords).numpy()
            if out.kl_per_channel is not None:
                totals["kl_per_channel"] = out.kl_per_channel.numpy()
                totals["positions"] = np.prod(net.pair.shape(own.shape[2]))
                if args.sample_latents:
                    eps = noise_of(net, own.shape[2], sample_seed(args.seed, found.key(number)), device)
                    drawn = Reconstruction.measure(net, own, clean, longest, eps).scores
                    values |= {f"{name}_sampled": value for name, value in drawn.items() if name != "kldiv_z"}
        if verifier is not None and found.judged[number]:
            made = Reconstruction.reconstruct(net, x[..., kept], longest)
            values["vector"] = verifier.embed(made).numpy()
        return values, totals

    try:
        return over_recordings(found, features, each, args, device, subject.name, noisy=noisy)
    finally:
        subject.net.to("cpu")


def hear_all(features, found: Recordings, verifier, args, device, noisy=None) -> dict:
    """Return what no network does to the features: `vector` of judged recordings, their own or those of noisy versions;
    of noisy ones also `mse` and `l1` of the scored; without noise the `variance` (bins,) of these."""

    def each(number, x, target, speech):
        values, kept = {}, heard_frames(speech)
        if found.scored[number]:
            own, clean = (x[..., kept], target[..., kept]) if args.speech_only else (x, target)
            if noisy is None:
                values["variance"] = own[0].double().var(1, correction=0).cpu().numpy()
            else:
                difference = (own - clean).double()
                values |= {"mse": float(difference.square().mean()), "l1": float(difference.abs().mean())}
        if verifier is not None and found.judged[number]:
            values["vector"] = verifier.embed(x[..., kept]).numpy()
        return values, {}

    return over_recordings(found, features.to(device), each, args, device, "originals", noisy=noisy)[0]
