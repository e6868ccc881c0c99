"""Small waveform models as checkpoints, for tests of the scripts that use them.
Entry points: unet, classifier, verifier, vqvae, recogniser, which write a file; SPEAKERS.
"""

import torch

from engine import checkpoint
from models.EncoderPredictor import MainModel as EncoderPredictor
from models.ResNet18 import MainModel as ResNet18
from models.UNet import MainModel as UNet
from models.WaveClassifier import MainModel as WaveClassifier
from models.WaveVQVAE import MainModel as WaveVQVAE

SPEAKERS = ["anna", "19", "carl"]
LENGTH = 1024  # samples that the models were trained on
META = {
    "schedule": "exp", "target": "eps", "encoding": "linear", "sample_rate": 16000, "window": LENGTH, "speakers": None,
    "cond_dropout": 0.0, "cond": None,
}  # fmt: skip


def write(path, network, kwargs, meta, prefix):
    """Write a network without the zeros of its first weights, so that everything it is given has an effect."""
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    kind = network.__class__.__module__
    checkpoint.write(path, {"class": kind, "kwargs": kwargs, "state_dict": state, "meta": {**META, **meta}})
    return path


def unet(path, labels=False, cond_dim=None, cond_dropout=0.0, **meta):
    """Write a diffusion model; with `labels` of SPEAKERS."""
    torch.manual_seed(0)
    count = len(SPEAKERS) + (cond_dropout > 0) if labels else None
    kwargs = {"base_channels": 8, "channel_mult": [1, 2], "middle_dilations": [2], "depth_mult": 1}
    kwargs |= {"num_labels": count, "cond_dim": cond_dim}
    named = {"speakers": SPEAKERS if labels else None, "cond_dropout": cond_dropout}
    return write(path, UNet(**kwargs), kwargs, {**named, **meta}, "predictor.")


def classifier(path, speakers=SPEAKERS, **meta):
    """Write a speaker classifier."""
    torch.manual_seed(1)
    kwargs = {
        "num_labels": len(speakers), "base_channels": 8, "channel_mult": [1, 2], "output_mult": 4, "depth_mult": 1,
    }  # fmt: skip
    return write(path, WaveClassifier(**kwargs), kwargs, {"speakers": list(speakers), **meta}, "")


def verifier(path):
    """Write a speaker network."""
    torch.manual_seed(2)
    kwargs = {"nOut": 8, "n_mels": 16, "width": 4}
    return write(path, ResNet18(**kwargs), kwargs, {"wav_scale": 1.0}, "__S__.")


def vqvae(path, labels=True, none_label=False, no_vq_prob=0.0, **meta):
    """Write a VQ-VAE of 8 codes, one every 320 samples; with `labels` of SPEAKERS."""
    torch.manual_seed(3)
    count = len(SPEAKERS) + none_label if labels else None
    kwargs = {
        "base_channels": 4, "enc_name": "conv-mfcc-linear", "cond_mult": 2, "dictionary_size": 8,
        "pred_name": "wavegrad", "num_labels": count,
    }  # fmt: skip
    own = {"speakers": SPEAKERS if labels else None, "none_label": none_label, "no_vq_prob": no_vq_prob}
    network = WaveVQVAE(**kwargs)
    with torch.no_grad():
        network.vq.dictionary.mul_(0.1)  # as small as what the encoder gives, lest one code be the nearest to all
    return write(path, network, kwargs, {**own, "no_class_prob": 0.1 * none_label, "window": 1280, **meta}, "")


def recogniser(path, codes=8, rate=320, **meta):
    """Write an encoder predictor of a VQ-VAE of vqvae()."""
    torch.manual_seed(4)
    kwargs = {"base_channels": 4, "downsample_rate": rate, "num_latents": codes, "bottleneck_dim": 4}
    return write(path, EncoderPredictor(**kwargs), kwargs, meta, "")
