"""Which of a VQ-VAE's voices is most like that of a recording: the one whose label makes its noise best predicted.
Entry points: add_arguments, label_errors(model, path, args, device).
"""

import numpy as np
import torch
from tqdm import tqdm

import Resynthesis
import VQVAENet
import WaveSampling
from audio.companding import encode
from audio.io import SAMPLE_RATE
from audio.sample_folder import read_wave
from diffusion import objective, samplers
from engine import distributed

RANGES = {"num_timesteps": (1, 10000), "num_seeds": (1, 10000), "top_k": (1, None)}


def add_arguments(group):
    """Add the flags that say how carefully is searched."""
    group.add_argument("--num_timesteps", type=int, default=16, help="times in [0, 1], evenly spaced, both ends too")
    group.add_argument("--num_seeds", type=int, default=1, help="draws of noise, each for all labels and times")


def label_errors(model: Resynthesis.Model, path: str, args, device) -> np.ndarray:
    """Return the mean error (labels,) of the noise predicted in a recording with each label, float64, on all ranks.

    It is the mean over --num_timesteps times and --num_seeds draws of noise, the same ones for all labels, of the
    first --seconds of the recording.

    Raises:
        ValueError: the network has no labels.
    """
    net, unit = model.net, model.unit
    if net.speakers is None:
        raise ValueError(f"{args.checkpoint_path} was trained without labels: it has no voices to search")
    wave = encode(read_wave(path, 0, round(args.seconds * SAMPLE_RATE) or None), args.encoding)
    wave = Resynthesis.padded(wave[: len(wave) // unit * unit or None], unit)
    clean = torch.from_numpy(wave)[None].to(device)
    cond, _ = VQVAENet.condition_of(net, clean, quantise=not args.no_vq)
    seeds = [samplers.sample_seed(args.seed, number) for number in range(args.num_seeds)]
    noise = samplers.noise_of(seeds, (1, clean.shape[1]), device)()
    times = torch.linspace(0, 1, args.num_timesteps, device=device)
    labels = torch.arange(net.speakers, device=device)[distributed.rank() :: distributed.world_size()]
    asked = torch.cartesian_prod(*(torch.arange(len(x), device=device) for x in (labels, times, noise)))
    errors = torch.zeros(len(labels), dtype=torch.float64, device=device)
    shown = distributed.is_main() and None
    with tqdm(total=len(asked), unit="prediction", disable=shown, leave=False) as progress, torch.inference_mode():
        for label, time, draw in (part.T for part in asked.split(args.batch_size)):
            rows = len(label)
            predict = VQVAENet.predict(net, cond.expand(rows, -1, -1), labels[label])
            x0 = clean[None].expand(rows, -1, -1)
            found = objective.losses(WaveSampling.within(predict, args), x0, times[time], noise[draw], net.schedule)
            errors.index_add_(0, label, found.double())
            progress.update(rows)
    parts = distributed.gather_objects((errors / (len(times) * len(noise))).cpu().numpy())
    whole = np.empty(net.speakers)
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole
