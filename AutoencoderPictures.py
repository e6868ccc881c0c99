"""What an autoencoder makes of recordings, to look at and to listen to.
Entry points: draw, file_name, as_rows.
"""

from pathlib import Path

import numpy as np
import torch

import AutoencoderEvaluation
import Reconstruction
from audio.companding import write_samples
from audio.griffin_lim import wave_of
from audio.io import read_audio
from diffusion.samplers import sample_seed
from scoring import reconstruction_plots


def file_name(name: str) -> str:
    """Return a recording's name as that of a file in one folder."""
    return Path(name).with_suffix("").as_posix().strip("/.").replace("/", "_")


def as_rows(latents: torch.Tensor) -> np.ndarray:
    """Return the latents or codes of one utterance (1, channels, [bands,] positions) as (rows, positions)."""
    return latents[0].reshape(-1, latents.shape[-1]).cpu().numpy()


@torch.inference_mode()
def draw(subject, found, args, device, folder: Path):
    """Draw --pictures of the first scored recordings, and write --wavs, by the network of `subject`."""
    numbers = np.flatnonzero(found.scored)[: max(args.pictures, args.wavs)].tolist()
    if not numbers:
        return
    net, features, longest = subject.net.to(device), subject.features.to(device), round(100 * args.longest_seconds)
    for place, number in enumerate(numbers):
        wave, name = read_audio(found.paths[number]), found.names[number]
        x, _ = AutoencoderEvaluation.features_of(wave, features, device, found.paths[number])
        made = Reconstruction.reconstruct(net, x, longest)
        if place < args.pictures:
            panels = {"original": x[0].cpu().numpy(), "reconstruction": made[0].cpu().numpy()}
            if hasattr(net, "posterior"):
                eps = AutoencoderEvaluation.noise_of(net, x.shape[2], sample_seed(args.seed, found.key(number)), device)
                sampled = Reconstruction.measure(net, x, None, longest, eps).mean
                panels["reconstruction from a sample of the latents"] = sampled.cpu().numpy()
            latents = as_rows(Reconstruction.encode(net, x, longest))
            codewords = net.quantiser.codewords if hasattr(net, "quantiser") else 0
            target = folder / "pictures" / f"{file_name(name)}.png"
            reconstruction_plots.draw_reconstruction(target, panels, latents, codewords, f"{subject.name}: {name}")
        if place < args.wavs:
            mean = features.front_end(torch.from_numpy(wave).to(device)[None]) - x
            for kind, mel in (("original", x), ("reconstruction", made)):
                own = wave_of((mel + mean)[0], features.front_end)
                write_samples(folder / "wavs" / f"{file_name(name)}_{kind}.wav", own)
    subject.net.to("cpu")
    if args.wavs:
        print(f"{folder / 'wavs'}: by Griffin-Lim, both with the sliding mean of the original put back")
