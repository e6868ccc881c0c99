"""VQ-VAE of waves: an encoder, a quantiser, and a noise predictor that is conditioned on the codes and the speaker.
Entry point: MainModel. van den Oord et al. 2017, arXiv 1711.00937; in the form of vq-voice-swap.
"""

import math
from typing import NamedTuple

import torch
from torch import nn

from models.blocks import original, vq, waves
from models.blocks.wave_encoders import make_encoder
from models.UNet import MainModel as UNet
from models.WaveGrad import MainModel as WaveGrad

PREDICTORS = {"unet": UNet, "wavegrad": WaveGrad}


class Output(NamedTuple):
    """What the losses need: the predicted noise, the latents that were quantised, their values and their codes."""

    prediction: torch.Tensor
    latents: torch.Tensor
    embedded: torch.Tensor
    codes: torch.Tensor


class MainModel(nn.Module):
    """The codes say what is spoken, the label who speaks: another label is another voice.

    Args:
        base_channels: width of encoder and predictor; a code has base_channels * cond_mult numbers.
        enc_name: one of models.blocks.wave_encoders.ENCODERS.
        dictionary_size: number of codes.
        pred_name: unet or wavegrad.
        num_labels: speakers; None for a network without.
        dropout: of the predictor, unet only.
        dead_rate: a code is dead after so many training batches without use.
        checkpoint_activations: compute the inside of each block again in the backward pass, for memory.
    """

    TASK = "vqvae"
    TEST_OPTIONS = {
        "base_channels": 4, "enc_name": "conv-mfcc-linear", "cond_mult": 2, "dictionary_size": 8, "num_labels": 3,
        "pred_name": "wavegrad",
    }  # fmt: skip

    def __init__(
        self,
        base_channels=32,
        enc_name="unet",
        cond_mult=16,
        dictionary_size=512,
        pred_name="unet",
        num_labels=None,
        dropout=0.0,
        dead_rate=100,
        checkpoint_activations=False,
    ):
        super().__init__()
        if pred_name not in PREDICTORS:
            raise ValueError(f"predictor {pred_name}: one of {', '.join(PREDICTORS)}")
        if dropout and pred_name != "unet":
            raise ValueError(f"dropout {dropout}: the predictor {pred_name} has none")
        self.base_channels, self.enc_name, self.cond_mult = base_channels, enc_name, cond_mult
        self.pred_name, self.num_labels, self.dropout = pred_name, num_labels, dropout
        channels = base_channels * cond_mult
        own = {"cond_channels": channels, "dropout": dropout} if pred_name == "unet" else {"cond_mult": cond_mult}
        self.predictor = PREDICTORS[pred_name](
            base_channels, num_labels=num_labels, checkpoint_activations=checkpoint_activations, **own
        )
        self.encoder = make_encoder(enc_name, base_channels, cond_mult, checkpoint_activations)
        self.vq = vq.VQ(channels, dictionary_size, dead_rate)
        self.rate = math.lcm(self.predictor.rate, self.encoder.rate)

    def forward(
        self, x, t, clean, label=None, jitter=0.0, no_vq_prob=0.0, jitter_draws=None, no_vq_draws=None
    ) -> Output:  # fmt: skip
        """Predict the noise in waves `x` (batch, 1, T) at times `t` (batch,), given the codes of the `clean` waves.

        Args:
            label: (batch,) integers, exactly when the network has labels.
            jitter, jitter_draws: see models.blocks.vq.jitter; before the quantiser.
            no_vq_prob, no_vq_draws: see models.blocks.vq.drop_codes.

        Raises:
            ValueError: T is no multiple of `rate`, or a label is missing, superfluous or too large.
        """
        waves.check_length(x.shape[-1], self.rate)
        latents = vq.jitter(self.latents(clean), jitter, jitter_draws)
        found = self.vq(latents)
        cond = vq.drop_codes(found.passthrough, no_vq_prob, no_vq_draws)
        return Output(self.predictor(x, t, label=label, cond=cond), latents, found.embedded, found.codes)

    def latents(self, clean):
        """Return what the quantiser gets (batch, channels, T / encoder.rate) of clean waves (batch, 1, T)."""
        waves.check_length(clean.shape[-1], self.encoder.rate)
        return self.encoder(clean)

    def encode(self, clean):
        """Return the codes (batch, T / encoder.rate) of clean waves (batch, 1, T)."""
        return self.vq(self.latents(clean)).codes

    def start_from(self, weights):
        """Take over what a VQ-VAE, or a noise predictor alone, has in common with this network; return how many.

        Raises:
            ValueError: a parameter has another shape there.
        """
        if "vq.dictionary" not in weights:
            weights = {original.PREDICTOR + name: tensor for name, tensor in weights.items()}
        return original.copy_matching(self, weights)

    @staticmethod
    def from_foreign(weights, stated=None):
        """Return (constructor arguments, weights) of a file of vq-voice-swap, None for another layout.

        stated: the constructor arguments that the file itself holds, which alone name the encoder; the sizes are taken
            from the weights.
        """
        if "vq.dictionary" not in weights or not stated or "enc_name" not in stated:
            return None
        start = original.PREDICTOR
        of_predictor = {name: tensor for name, tensor in weights.items() if name.startswith(start)}
        found = {name: cls.from_foreign(of_predictor, stated) for name, cls in PREDICTORS.items() if of_predictor}
        found = {name: kwargs for name, both in found.items() if both for kwargs in both[:1]}
        if len(found) != 1:
            return None
        (pred_name, kwargs), (codes, channels) = *found.items(), weights["vq.dictionary"].shape
        own = {name: kwargs[name] for name in ("base_channels", "num_labels", "dropout") if name in kwargs}
        own |= {"cond_mult": channels // own["base_channels"], "dictionary_size": codes, "pred_name": pred_name}
        return {**own, "enc_name": stated["enc_name"]}, weights

    def to_original(self, schedule="exp"):
        """Return what a file of this network in the layout of vq-voice-swap holds."""
        codes, channels = self.vq.dictionary.shape
        kwargs = {"pred_name": self.pred_name, "base_channels": self.base_channels, "schedule_name": schedule}
        kwargs |= {"num_labels": self.num_labels, "cond_channels": channels, "dropout": self.dropout}
        kwargs |= {"enc_name": self.enc_name, "cond_mult": self.cond_mult, "dictionary_size": codes}
        return original.payload(kwargs, self)

    def example(self, batch):
        """Return random inputs for the generated tests."""
        samples = 2 * self.rate
        given = {"x": torch.randn(batch, 1, samples), "t": torch.rand(batch)}
        given["clean"] = 0.1 * torch.randn(batch, 1, samples)
        return given if self.num_labels is None else given | {"label": torch.arange(batch) % self.num_labels}
