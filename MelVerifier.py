"""A speaker network that hears features in place of waves: what autoencoders leave of a voice.
Entry points: MelVerifier.load, embed, equal_error_rate.
"""

from pathlib import Path

import numpy as np
import torch

import AutoencoderNet
import SpeakerNet
from scoring import intervals, metrics, trials

LEAST_FRAMES = 16  # of speech; of fewer all frames are taken, of which the network needs 9


class MelVerifier:
    """A frozen verification network on the features of an autoencoder.

    Args:
        path: checkpoint of trainSpeakerNet.py, of a network on log-mel features such as LResNet34.

    Raises:
        FileNotFoundError, ValueError: no such file, or no network on features that an autoencoder has.
    """

    def __init__(self, path: str | Path, device):
        self.path, net = str(path), SpeakerNet.load(path, device)
        self.network = net.__S__
        if not hasattr(self.network, "log_mel"):
            name = type(self.network).__module__.rpartition(".")[2]
            raise ValueError(
                f"--verifier {path}: {name} does not take the log-mel features of autoencoders: train one with "
                "--model LResNet34"
            )
        self.options = {**self.network.log_mel.options, **AutoencoderNet.NORMALISATION}

    def check(self, options: dict, path: str):
        """Raise ValueError unless the autoencoder of `path` was trained on the features of this network.

        Args:
            options: of its AutoencoderNet.Features.
        """
        own = self.options
        # dither is a step of 16 bits, which neither network hears
        differ = [name for name, value in options.items() if name != "dither" and own.get(name) != value]
        wrong = [f"{name} {own.get(name)}, not {options[name]}" for name in differ]
        if wrong:
            raise ValueError(f"--verifier {self.path} was trained on other features than {path}: {', '.join(wrong)}")

    @torch.inference_mode()
    def embed(self, mel) -> torch.Tensor:
        """Return the embedding (dim,) of normalised features (1, bins, frames), on the CPU."""
        return self.network.embed(mel)[0].float().cpu()


def heard_frames(speech) -> torch.Tensor:
    """Return which frames (frames,) bool are heard: those of `speech`, or all where these are too few."""
    return speech if int(speech.sum()) >= LEAST_FRAMES else torch.ones_like(speech)


def equal_error_rate(vectors: torch.Tensor, test, args) -> tuple[np.ndarray, dict]:
    """Return the cosine of every trial and {"eer", "eer_interval": [low, high]} in percent over speakers.

    Args:
        vectors: (files, dim) of test.names. test: an audio.lists.TrialList with labels.
        args: eer_method, bootstrap, seed.

    Raises:
        ValueError: an embedding is not finite.
    """
    offsets = np.arange(len(vectors) + 1)
    scores = trials.score_trials(vectors, offsets, test.pairs, "cosine")
    counts = metrics.count_accepted(scores, test.labels)
    found = {"eer": float(metrics.eer_of(counts, args.eer_method)[0])}
    if args.bootstrap:
        interval = intervals.bootstrap_interval(
            scores, test.labels, test.sides(), lambda drawn: metrics.eer_of(drawn, args.eer_method)[0],
            replicates=args.bootstrap, seed=args.seed,
        )  # fmt: skip
        found |= {"eer_interval": [float(interval.low), float(interval.high)], "replicates": str(interval)}
    return scores, found
