"""Small autoencoders of features and their verifier as checkpoints, for tests of the scripts that use them.
Entry points: autoencoder, verifier, which write a file.
"""

import torch
import wave_models

from AutoencoderNet import options_of
from engine import checkpoint, registry
from models.LResNet34 import MainModel as LResNet34

STACK = {"stem_channels": 6, "repeats": [1, 1], "channels": 6, "kernels": 3, "strides": [1, 2]}
ATTENTION = {"blocks": 1, "d_model": 8, "heads": 2, "d_ff": 8, "context": 25}
OPTIONS = {
    "resnet1d": ({**STACK, "stem_kernel": 5}, {**STACK, "stem_kernel": 3}),
    "dc2d": ({**STACK, "stem_kernel": 5}, {**STACK, "stem_kernel": 3}),
    "transformer": (ATTENTION, ATTENTION),
}
BINS = 16


def autoencoder(path, model="VAE", encoder="resnet1d", dither=0.0, denoising=False, meta=None, **options):
    """Write an autoencoder of BINS bins; a VQ-VAE with a codebook in two groups that suits its latents."""
    torch.manual_seed(0)
    down, up = OPTIONS[encoder]
    kwargs = {"encoder": encoder, "encoder_options": down, "decoder_options": up, "latent_channels": 6, "bins": BINS}
    kwargs |= {"codewords": 8, "groups": 2} if model == "VQVAE" else {}
    net = registry.load("models", model)(**{**kwargs, **options})
    if model == "VQVAE":
        net.train()(3 * torch.randn(4, BINS, 60))  # the codebook starts from a batch
    own = {"bins": BINS, "front_end": options_of("511", dither, BINS), "denoising": denoising}
    payload = {"class": f"models.{model}", "kwargs": {**kwargs, **options}, "state_dict": net.state_dict()}
    checkpoint.write(path, {**payload, "meta": {**own, "chunk_frames": [40, 40], **(meta or {})}})
    return path


def verifier(path, bins=BINS, dither=0.0):
    """Write a verifier on features of `bins`."""
    torch.manual_seed(1)
    kwargs = {"nOut": 8, "n_mels": bins, "width": 4}
    network = LResNet34(**kwargs)
    return wave_models.write(path, network, kwargs, {"wav_scale": 1.0}, "__S__.")
