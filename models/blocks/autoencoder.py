"""What the auto-encoders of features share: a pair of networks by name, their shapes, and means over what counts.
Entry points: Pair, make_likelihood, distribution, check_inputs, mean_over_frames, errors.
"""

import inspect

import torch
from torch import nn

from engine import registry
from engine.args import nearest
from models.blocks.gaussians import LIKELIHOODS, Gaussian, Normal


class Pair(nn.Module):
    """An encoder and a decoder of backbones/ by name, for features (batch, bins, frames).

    Args:
        encoder, decoder: names; decoder None for the same.
        encoder_options, decoder_options: arguments of their classes but for in_channels.
        latent_channels: what the decoder takes.
        bins: of the features.

    Raises:
        ValueError: an unknown name or option, or the two do not fit each other.
    """

    def __init__(self, encoder, decoder, encoder_options, decoder_options, latent_channels, bins):
        super().__init__()
        decoder = decoder or encoder
        down, up = registry.load_backbone(encoder)[0], registry.load_backbone(decoder, "--decoder")[1]
        if down.DIMS != up.DIMS:
            raise ValueError(f"encoder {encoder} spans {down.DIMS} axes, decoder {decoder} {up.DIMS}: take alike ones")
        self.dims, self.bins, self.latent_channels = down.DIMS, bins, latent_channels
        self.encoder = _make(down, f"encoder {encoder}", bins if self.dims == 1 else 1, encoder_options)
        self.decoder = _make(up, f"decoder {decoder}", latent_channels, decoder_options)
        for axis in ("stride", "frequency_stride"):
            shorter, longer = getattr(self.encoder, axis), getattr(self.decoder, axis)
            if shorter != longer:
                raise ValueError(f"encoder {encoder} shortens {shorter} times, decoder {decoder} lengthens {longer}")
        self.stride = self.encoder.stride

    def encode(self, x):
        """Return what the encoder gives for `x` (batch, bins, frames): (batch, channels, [bands,] positions).

        Raises:
            ValueError: `x` has another number of bins.
        """
        if x.dim() != 3 or x.shape[1] != self.bins:
            raise ValueError(f"features of shape {tuple(x.shape)}, expected (batch, {self.bins} bins, frames)")
        return self.encoder(x if self.dims == 1 else x[:, None])

    def decode(self, z, frames=None):
        """Return (batch, channels, [bins,] frames) of latents, the surplus cut at the end of each axis.

        frames: None for all that the decoder gives, `stride` for each position.

        Raises:
            ValueError: the latents are of fewer or more positions than `frames` has.
        """
        self.check_shape(z.shape[2:], frames)
        hidden = self.decoder(z)
        if self.dims == 2:
            hidden = hidden[:, :, : self.bins]
        return hidden[..., :frames]

    def shape(self, frames: int) -> tuple[int, ...]:
        """Return the axes of the latents of so many frames: (positions,) or (bands, positions)."""
        positions = self.encoder.out_frames(frames)
        return (positions,) if self.dims == 1 else (self.encoder.out_frames(self.bins), positions)

    def check_shape(self, shape, frames):
        """Raise ValueError unless `shape` is that of the latents of `frames`, of any number where it is None."""
        wanted = self.shape(shape[-1] * self.stride if frames is None else frames)
        if tuple(shape) != wanted:
            of = "" if frames is None else f" of {frames} frames"
            raise ValueError(f"latents at {tuple(shape)} positions, those{of} are at {wanted}")

    def counted_positions(self, mask, z):
        """Return which positions of `z` hold a frame of `mask` (batch, frames) bool, (batch, [bands,] positions)."""
        if mask is None:
            return None
        missing = z.shape[-1] * self.stride - mask.shape[-1]
        found = nn.functional.pad(mask, (0, missing)).reshape(len(mask), -1, self.stride).any(2)
        return found if self.dims == 1 else found[:, None].expand(-1, z.shape[2], -1)


def option_names(cls) -> list[str]:
    """List what a backbone's class can be given but for in_channels, through the constructors that it hands on to."""
    found = []
    for part in cls.__mro__:
        if "__init__" in vars(part):
            parameters = inspect.signature(part.__init__).parameters.values()
            found += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return sorted(set(found) - {"self", "in_channels"})


def _make(cls, name, in_channels, options):
    options, known = options or {}, option_names(cls)
    for option in options:
        if option not in known:
            near = nearest(str(option), known)
            raise ValueError(f"options of {name}: there is no {option}{near}; there are {', '.join(known)}")
    try:
        return cls(in_channels, **options)
    except TypeError as error:  # one that is missing, or of another type
        raise ValueError(f"options of {name}: {error}") from None


def make_likelihood(pair: Pair, name: str, least_std: float = 0.0) -> Gaussian:
    """Return p(x|z) by its published name: its 1 x 1 convolution follows the decoder.

    The learned variance is one for each bin of 1-D networks, a single one of 2-D networks.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood {name}: one of {', '.join(LIKELIHOODS)}")
    channels = pair.bins if pair.dims == 1 else 1
    return Gaussian(pair.decoder.out_channels, channels, pair.dims, LIKELIHOODS[name], least_std=least_std)


def distribution(pair: Pair, likelihood: Gaussian, z: torch.Tensor, frames: int | None = None) -> Normal:
    """Return p(x|z) of features (batch, bins, frames), given latents."""
    normal = likelihood(pair.decode(z, frames))
    return normal if pair.dims == 1 else Normal(*(part.squeeze(1) for part in normal))


def check_inputs(x, target, mask):
    """Raise ValueError unless target and mask, where given, fit features `x` (batch, bins, frames)."""
    if target is not None and target.shape != x.shape:
        raise ValueError(f"a target of shape {tuple(target.shape)} for features of {tuple(x.shape)}")
    if mask is not None and mask.shape != (x.shape[0], x.shape[2]):
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for features of {tuple(x.shape)}: (batch, frames)")


def mean_over_frames(values: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean (batch,) of `values` (batch, bins, frames) over the frames that count; 0 where none does."""
    values = values.float()
    if mask is None:
        return values.mean((1, 2))
    sums = torch.where(mask[:, None], values, 0.0).sum((1, 2))
    return sums / dimensions(values, mask)


def dimensions(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor | int:
    """Return how many numbers of `x` (batch, bins, frames) count: one for all, (batch,) with a mask, at least 1."""
    return x[0].numel() if mask is None else (mask.sum(1) * x.shape[1]).clamp(min=1)


@torch.no_grad()
def errors(mean: torch.Tensor, target: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Return mean squared error and mean absolute error of each sample, {mse, l1}, (batch,)."""
    difference = mean.float() - target.float()
    return {"mse": mean_over_frames(difference.square(), mask), "l1": mean_over_frames(difference.abs(), mask)}
