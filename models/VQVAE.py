"""VQ-VAE of log-mel features: groups of codes instead of latents; denoising where a clean target is given.
Entry point: MainModel. van den Oord et al. 2017, arXiv 1711.00937.
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
from models.blocks.pointwise import Pointwise
from models.blocks.quantiser import Quantiser, index_prior, objective


class Output(NamedTuple):
    """Of each sample (batch,): `loss`, and in nats per dimension of x `log_px`, `kl`, `elbo`; `mse`, `l1`, `vq_loss`.

    `log_perplexity` () is the mean over groups, of all ranks' positions in training; `codes` (batch, groups, [bands,]
    positions); `mean` is that of p(x|z), (batch, bins, frames). What counts for the codes alone has no gradient.
    """

    loss: torch.Tensor
    log_px: torch.Tensor
    kl: torch.Tensor
    elbo: torch.Tensor
    mse: torch.Tensor
    l1: torch.Tensor
    vq_loss: torch.Tensor
    log_perplexity: torch.Tensor
    codes: torch.Tensor
    mean: torch.Tensor


class MainModel(nn.Module):
    """A 1 x 1 convolution gives the latents that are quantised.

    Args:
        encoder, decoder, encoder_options, decoder_options: see models.blocks.autoencoder.Pair.
        latent_channels: of the latents, a multiple of `groups`.
        bins: of the features.
        kl_weight: of the KL divergence, a constant, in ELBO and loss.
        likelihood: normal-glob-diag-cov, normal-diag-cov (predicted variance) or identity.
        least_feature_std: the least standard deviation of p(x|z), 0 for no limit.
        diversity_weight: of the log-perplexity of the codes in the loss.
        codewords, groups, commitment, update, decay, epsilon, group_reduction, start, dead_after, soft_perplexity,
            seed: see models.blocks.quantiser.Quantiser.
    """

    TASK = "autoencoder"
    SIZES = {"stem_channels": 6, "repeats": [1, 1], "channels": 6, "kernels": 3, "strides": [1, 2]}
    # the perplexity is that of a batch, so a row of it has another loss
    TEST_OPTIONS = {
        "encoder_options": {**SIZES, "stem_kernel": 5}, "decoder_options": {**SIZES, "stem_kernel": 3},
        "latent_channels": 6, "bins": 10, "codewords": 4, "groups": 2, "diversity_weight": 0.0,
    }  # fmt: skip

    def __init__(
        self, encoder="resnet1d", decoder=None, encoder_options=None, decoder_options=None, latent_channels=256,
        bins=80, kl_weight=1.0, likelihood="normal-glob-diag-cov", least_feature_std=0.0, diversity_weight=0.1,
        codewords=64, groups=1, commitment=0.25, update="ema", decay=0.99, epsilon=1e-5, group_reduction="mean",
        start="kmeans++", dead_after=5, soft_perplexity=False, seed=0,
    ):  # fmt: skip
        super().__init__()
        self.bins, self.kl_weight, self.diversity_weight = bins, kl_weight, diversity_weight
        self.pair = Pair(encoder, decoder, encoder_options, decoder_options, latent_channels, bins)
        self.project = Pointwise(self.pair.encoder.out_channels, latent_channels)
        self.quantiser = Quantiser(
            latent_channels, codewords, groups, commitment, update, decay, epsilon, group_reduction, start, dead_after,
            soft_perplexity, seed,
        )  # fmt: skip
        self.likelihood = make_likelihood(self.pair, likelihood, least_feature_std)

    def forward(self, x, target=None, mask=None) -> Output:
        """Reconstruct features `x` (batch, bins, frames) and measure; in training also learn the codebooks.

        Args:
            target: clean features of the same shape; None for `x`.
            mask: (batch, frames) bool, which frames count; a position of the latents does when any frame of it does.

        Raises:
            ValueError: the first training batch has fewer positions than there are codewords.
        """
        check_inputs(x, target, mask)
        target = (x if target is None else target).float()
        z = self.latents(x)
        found = self.quantiser(z, self.pair.counted_positions(mask, z))
        px = self.distribution(found.z_q, x.shape[2])
        log_px = mean_over_frames(gaussians.log_density(target, px), mask)
        kl = found.kl / dimensions(target, mask)
        elbo, loss = objective(
            log_px, kl, found.loss, found.log_perplexity, self.kl_weight, self.diversity_weight
        )  # fmt: skip
        return Output(
            loss, log_px, kl, elbo, **errors(px.mean, target, mask), vq_loss=found.loss,
            log_perplexity=found.log_perplexity, codes=found.codes, mean=px.mean,
        )  # fmt: skip

    def latents(self, x):
        """Return what the quantiser gets (batch, latent_channels, [bands,] positions) of features, in float32."""
        hidden = self.pair.encode(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.project(hidden.float())

    def encode(self, x):
        """Return the codes (batch, groups, [bands,] positions) of features (batch, bins, frames)."""
        return self.quantiser.assign(self.latents(x))

    def distribution(self, z, frames=None):
        """Return p(x|z), mean (batch, bins, frames) and standard deviation; frames None for all of the positions."""
        return distribution(self.pair, self.likelihood, z, frames)

    def decode(self, codes, frames=None):
        """Return the mean of p(x|z) (batch, bins, frames) of codes, or of latents.

        Between two utterances: z1, z2 = (model.quantiser.embed(model.encode(x)) for x in (x1, x2)), then
        decode((1 - a) * z1 + a * z2, frames), a from 0 to 1.
        """
        z = codes if codes.is_floating_point() else self.quantiser.embed(codes)
        return self.distribution(z, frames).mean

    def reconstruct(self, x):
        """Return the mean of p(x|z) of features, of the same shape."""
        return self.decode(self.encode(x), x.shape[2])

    def sample_codes(self, batch, frames, generator=None, prior="uniform"):
        """Return codes (batch, groups, [bands,] positions), drawn independently by the prior, uniform or empirical."""
        probabilities, shape = index_prior(self.quantiser, prior), self.pair.shape(frames)
        own = probabilities.device if generator is None else generator.device
        count = batch * torch.Size(shape).numel()
        codes = torch.multinomial(probabilities.to(own), count, replacement=True, generator=generator)
        return codes.view(-1, batch, *shape).transpose(0, 1).to(probabilities.device)

    def sample(self, batch, frames, generator=None, prior="uniform"):
        """Return features (batch, bins, frames), the mean of p(x|z), of codes drawn by the prior."""
        return self.decode(self.sample_codes(batch, frames, generator, prior), frames)

    def example(self, batch):
        """Return random inputs for the generated tests."""
        x = torch.randn(batch, self.bins, 13)
        mask = torch.arange(13) < 13 - torch.arange(batch)[:, None]
        return {"x": x + 0.1 * torch.randn_like(x), "target": x, "mask": mask}
