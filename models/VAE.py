"""Variational auto-encoder of log-mel features; denoising where a clean target is given.
Entry point: MainModel. Kingma and Welling 2014, arXiv 1312.6114.
"""

from typing import NamedTuple

import torch
from torch import nn

from models.blocks import gaussians
from models.blocks.autoencoder import (
    Pair,
    check_inputs,
    dimensions,
    distribution,
    errors,
    make_likelihood,
    mean_over_frames,
)


class Output(NamedTuple):
    """Of each sample (batch,): `loss`, and in nats per dimension of x `log_px`, `kl`, `elbo`; `mse` and `l1`.

    `kl_per_channel` (batch, latent_channels) is in nats, the sum over positions: a channel near 0 carries nothing.
    `mean` is that of p(x|z), (batch, bins, frames).
    """

    loss: torch.Tensor
    log_px: torch.Tensor
    kl: torch.Tensor
    elbo: torch.Tensor
    mse: torch.Tensor
    l1: torch.Tensor
    kl_per_channel: torch.Tensor
    mean: torch.Tensor


class MainModel(nn.Module):
    """Normal latents (batch, latent_channels, [bands,] positions) with a standard normal prior, normal features.

    Args:
        encoder, decoder, encoder_options, decoder_options: see models.blocks.autoencoder.Pair.
        latent_channels: of the latents.
        bins: of the features.
        kl_weight: of the KL divergence in ELBO and loss.
        likelihood: normal-glob-diag-cov, normal-diag-cov (predicted variance) or identity.
        posterior: covariance of q(z|x), global_diagonal, diagonal (predicted) or identity.
        limit_std_to_prior: the standard deviation of q(z|x) is at most 1.
        least_std: the least one of q(z|x), 0 for no limit.
        least_feature_std: the least one of p(x|z), 0 for no limit.
        free_bits: nats per latent channel and position that cost nothing in the loss.
    """

    TASK = "autoencoder"
    SIZES = {"stem_channels": 6, "repeats": [1, 1], "channels": 6, "kernels": 3, "strides": [1, 2]}
    TEST_OPTIONS = {
        "encoder_options": {**SIZES, "stem_kernel": 5}, "decoder_options": {**SIZES, "stem_kernel": 3},
        "latent_channels": 4, "bins": 10, "posterior": "diagonal",
    }  # fmt: skip

    def __init__(
        self, encoder="resnet1d", decoder=None, encoder_options=None, decoder_options=None, latent_channels=80,
        bins=80, kl_weight=1.0, likelihood="normal-glob-diag-cov", posterior="global_diagonal",
        limit_std_to_prior=True, least_std=0.0, least_feature_std=0.0, free_bits=0.0,
    ):  # fmt: skip
        super().__init__()
        if kl_weight < 0 or free_bits < 0:
            raise ValueError(f"kl_weight {kl_weight}, free_bits {free_bits}: must be at least 0")
        self.bins, self.latent_channels, self.kl_weight, self.free_bits = bins, latent_channels, kl_weight, free_bits
        self.pair = Pair(encoder, decoder, encoder_options, decoder_options, latent_channels, bins)
        most = 1.0 if limit_std_to_prior else None
        self.posterior = gaussians.Gaussian(
            self.pair.encoder.out_channels, latent_channels, self.pair.dims, posterior, most, least_std
        )
        self.likelihood = make_likelihood(self.pair, likelihood, least_feature_std)

    def forward(self, x, target=None, mask=None, eps=None, kl_weight=None) -> Output:
        """Reconstruct features `x` (batch, bins, frames) and measure; in training, or with `eps`, from sampled latents.

        Args:
            target: clean features of the same shape; None for `x`.
            mask: (batch, frames) bool, which frames count; a position of the latents does when any frame of it does.
            eps: standard normal, of the latents' shape; None: by torch's generator in training, else the posterior
                mean is taken.
            kl_weight: of this step's loss, as models.blocks.gaussians.warm_up gives it; None for that of the model.
        """
        check_inputs(x, target, mask)
        target = (x if target is None else target).float()
        q = self.posterior(self.pair.encode(x))
        px = self.distribution(self._draw(q, eps, self.training), x.shape[2])
        log_px = mean_over_frames(gaussians.log_density(target, px), mask)
        counted, of_element = self.pair.counted_positions(mask, q.mean), gaussians.kl_divergence(q)
        if counted is not None:
            of_element = torch.where(counted[:, None], of_element, 0.0)
        per_channel, size = of_element.flatten(2).sum(2), dimensions(target, mask)
        kl = per_channel.sum(1) / size
        cost = kl
        if self.free_bits:
            positions = of_element[0, 0].numel() if counted is None else counted.flatten(1).sum(1, keepdim=True)
            cost = gaussians.free_bits(per_channel, self.free_bits * positions).sum(1) / size
        loss = -gaussians.elbo_per_dimension(log_px, cost, self.kl_weight if kl_weight is None else kl_weight)
        elbo = gaussians.elbo_per_dimension(log_px, kl, self.kl_weight)
        return Output(loss, log_px, kl, elbo, **errors(px.mean, target, mask), kl_per_channel=per_channel, mean=px.mean)

    @staticmethod
    def _draw(q, eps, drawn):
        if eps is None and not drawn:
            return q.mean
        if eps is not None and eps.shape != q.mean.shape:
            raise ValueError(f"eps of shape {tuple(eps.shape)}, latents of {tuple(q.mean.shape)}")
        return q.mean + q.std * (torch.randn_like(q.mean) if eps is None else eps)

    def encode(self, x, sample=False):
        """Return the latents of features (batch, bins, frames): the posterior mean, or a sample."""
        return self._draw(self.posterior(self.pair.encode(x)), None, sample)

    def distribution(self, z, frames=None):
        """Return p(x|z), mean (batch, bins, frames) and standard deviation; frames None for all of the positions."""
        return distribution(self.pair, self.likelihood, z, frames)

    def decode(self, z, frames=None):
        """Return the mean of p(x|z) (batch, bins, frames) of latents.

        Between two utterances: decode((1 - a) * encode(x1) + a * encode(x2), frames), a from 0 to 1.
        """
        return self.distribution(z, frames).mean

    def reconstruct(self, x, sample=False):
        """Return the mean of p(x|z) of features, of the same shape, from the posterior mean or a sample of it."""
        return self.decode(self.encode(x, sample), x.shape[2])

    def sample(self, batch, frames, generator=None):
        """Return features (batch, bins, frames), the mean of p(x|z), of latents drawn from the prior N(0, I)."""
        device = self.posterior.project.weight.device
        own = device if generator is None else generator.device
        z = torch.randn(batch, self.latent_channels, *self.pair.shape(frames), generator=generator, device=own)
        return self.decode(z.to(device), frames)

    def example(self, batch):
        """Return random inputs for the generated tests."""
        x = torch.randn(batch, self.bins, 13)
        mask = torch.arange(13) < 13 - torch.arange(batch)[:, None]
        eps = torch.randn(batch, self.latent_channels, *self.pair.shape(13))
        return {"x": x + 0.1 * torch.randn_like(x), "target": x, "mask": mask, "eps": eps}
