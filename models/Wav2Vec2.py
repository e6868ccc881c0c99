"""wav2vec 2.0 as a speaker network: torchaudio's model, one vector pooled over the frames of its transformer.
Entry point: MainModel.
"""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models.blocks import wav2vec2_weights
from models.blocks.network import SpeakerNetwork
from models.blocks.span_masks import span_mask
from models.blocks.time_pooling import POOLINGS, TimePooling, valid_frames
from models.blocks.wav2vec2_build import REGULARISATION, SIZES, build

CLASS_TOKENS = ("first+cls", "first+cls+learnable")

# value of the regularisation: what it is
VALUES = {
    "hidden_dropout": "dropout at the transformer's input and in its layers",
    "attention_dropout": "dropout of the attention's weights",
    "activation_dropout": "dropout inside the feed-forward blocks",
    "feat_proj_dropout": "dropout after the projection of the convolutions' output",
    "final_dropout": "dropout of the embedding before the classifier",
    "layerdrop": "chance of a layer to be skipped in a step",
    "mask_time_prob": "share of the frames that would be hidden if spans did not overlap",
    "mask_time_frames": "frames of a hidden span",
    "mask_feature_prob": "share of the channels hidden",
    "mask_feature_channels": "channels of a hidden span",
}


class MainModel(SpeakerNetwork):
    """wav2vec 2.0 (Baevski et al. 2020) with pooling, fine-tuned for speakers (Vaessen & van Leeuwen, ICASSP 2022).

    The wave is normalised as it comes: in training the crop, in extraction the file. The reference normalises the file
    before it crops; where the convolutions have a group norm (base, large) gain and offset cancel in it anyway.

    Args:
        encoder_type: the pooling. "first+cls": a vector of ones goes before the frames, and what becomes of it is the
            embedding; "+learnable": the vector is trained.
        num_frozen_steps: optimiser steps for which `initially_frozen` holds; -1 for ever.
        regularisation: row of wav2vec2_build.REGULARISATION; each value that is not None replaces that of the row.
        layer_sum: pool a sum of the transformer's input and all layers' outputs with learnt weights, not the last one.
        checkpoint_activations: compute a layer anew in the backward pass, for less memory.
        sizes: changes to the named size, by the names of torchaudio's wav2vec2_model.
    """

    WAV_SCALE = 1.0
    ENCODERS = (*POOLINGS, *CLASS_TOKENS)
    LEAST_SAMPLES = 400
    # what a published file may lack
    MISSING_OK = ("masked_spec_embed", "class_token", "layer_weights", "pooling.")
    TEST_OPTIONS = {"size": "tiny", "freeze_cnn": False, "layerdrop": 0.0}

    def __init__(
        self,
        size="base",
        encoder_type="mean",
        reset_weights=False,
        freeze_cnn=True,
        initially_frozen=False,
        num_frozen_steps=12500,
        regularisation="default",
        hidden_dropout=None,
        attention_dropout=None,
        activation_dropout=None,
        feat_proj_dropout=None,
        final_dropout=None,
        layerdrop=None,
        mask_time_prob=None,
        mask_time_frames=None,
        mask_feature_prob=None,
        mask_feature_channels=None,
        layer_sum=False,
        checkpoint_activations=False,
        sizes=None,
    ):
        super().__init__(encoder_type)
        given = {name: value for name, value in locals().items() if name in VALUES and value is not None}
        _check(size, regularisation, num_frozen_steps, sizes or {}, given)
        self.values = {**REGULARISATION[regularisation], **given}
        self.reset_weights, self.freeze_cnn = reset_weights, freeze_cnn
        self.initially_frozen, self.num_frozen_steps = initially_frozen, num_frozen_steps
        self.checkpoint_activations = checkpoint_activations

        sizes = {**SIZES[size], **(sizes or {})}
        dim, layers, least = sizes["encoder_embed_dim"], sizes["encoder_num_layers"], 1
        self.convolutions = [(kernel, stride) for _, kernel, stride in sizes["extractor_conv_layer_config"]]
        for kernel, stride in reversed(self.convolutions):  # from one frame back to the samples it sees
            least = (least - 1) * stride + kernel
        self.LEAST_SAMPLES = least
        self.wav2vec2 = build(sizes, self.values)
        self.masked_spec_embed = nn.Parameter(torch.rand(dim))
        token = torch.ones(dim) if encoder_type in CLASS_TOKENS else None
        if encoder_type == "first+cls+learnable":
            self.class_token = nn.Parameter(token)
        else:
            self.register_buffer("class_token", token, persistent=False)
        self.layer_weights = nn.Parameter(torch.zeros(layers + 1)) if layer_sum else None
        self.pooling = TimePooling("first" if token is not None else encoder_type, dim)
        self.embedding_size = dim * POOLINGS.get(encoder_type, 1)
        self.final_dropout = nn.Dropout(self.values["final_dropout"])
        if freeze_cnn:
            self.wav2vec2.feature_extractor.requires_grad_(False)

    @staticmethod
    def add_arguments(parser):
        """Add the flags of this network; nOut is not among them: size and pooling say how large the embedding is."""
        parser.set_defaults(encoder_type="mean")
        parser.add_argument(
            "--size",
            choices=tuple(SIZES),
            default="base",
            help="Wav2Vec2: size of the network; it and --pooling, not --nOut, say how large the embedding is",
        )
        parser.add_argument(
            "--regularisation",
            choices=tuple(REGULARISATION),
            default="default",
            help="Wav2Vec2: the values that follow, together; paper: what the published runs had in effect",
        )
        for name, meaning in VALUES.items():
            kind = type(REGULARISATION["default"][name])
            about = f"Wav2Vec2: {meaning} (default: of --regularisation)"
            parser.add_argument(f"--{name}", type=kind, default=None, help=about)
        parser.add_argument(
            "--num_frozen_steps",
            type=int,
            default=12500,
            help="Wav2Vec2: optimiser steps that --initially_frozen lasts (-1: for ever, 0: not at all)",
        )
        for name, default, meaning in (
            ("reset_weights", False, "begin with fresh weights, also where --initial_model is given"),
            ("freeze_cnn", True, "never train the convolutions"),
            ("initially_frozen", False, "at first train only what is behind the transformer"),
            ("layer_sum", False, "pool a learnt weighted sum of all layers' outputs instead of the last one"),
            ("checkpoint_activations", False, "save memory: compute a layer anew in the backward pass"),
        ):
            parser.add_bool(f"--{name}", default=default, help=f"Wav2Vec2: {meaning}")

    # ---- what files and trainer ask

    from_foreign = staticmethod(wav2vec2_weights.from_foreign)
    pretrained = staticmethod(wav2vec2_weights.pretrained)

    def freezing(self):
        """Return {prefix of parameter names: optimiser steps for which it does not train, None for ever}.

        While `wav2vec2` is in eval mode nothing is masked, dropped or skipped in it.
        """
        frozen = {}
        if self.initially_frozen and self.num_frozen_steps:
            steps = self.num_frozen_steps if self.num_frozen_steps > 0 else None
            learnt = ["class_token"] if isinstance(self.class_token, nn.Parameter) else []
            frozen = dict.fromkeys(["wav2vec2", "masked_spec_embed", *learnt], steps)
        if self.freeze_cnn:
            frozen["wav2vec2.feature_extractor"] = None
        if not self.values["mask_time_prob"]:
            frozen["masked_spec_embed"] = None  # it is never used
        return frozen

    # ---- wave to embedding

    def features(self, wave):
        """Return the convolutions' output (batch, channels, frames), float32, of `wave` (batch, samples), normalised.

        It has no graph where they are frozen. One frame every 320 samples; frames_of tells how many.
        """
        self.check_length(wave)
        return self.convolve(normalise(wave.float()))

    def convolve(self, wave):
        """Return the convolutions' output (batch, channels, frames), float32, of `wave` (batch, samples) as it is."""
        frames, _ = self.wav2vec2.feature_extractor(wave, None)
        return frames.transpose(1, 2).float()

    def frames_of(self, samples):
        """Return the number of frames, or a tensor of such, of waves of so many `samples`."""
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def embed(self, features, lengths=None):
        """Return the embedding (batch, embedding_size) of `features` (batch, channels, frames).

        `lengths` (batch): valid frames of each item, all where None; an item's embedding depends on no others.
        """
        hidden = self.hidden(features, lengths)
        return self.final_dropout(self.pooling(hidden, None if lengths is None else lengths.to(hidden.device)))

    def hidden(self, features, lengths=None):
        """Return the transformer's output (batch, frames, dim), or with --layer_sum the sum over its layers.

        A class token is the first of the frames.
        """
        lengths = None if lengths is None else lengths.to(features.device)
        x = self.wav2vec2.encoder.feature_projection(features.transpose(1, 2))
        if self.wav2vec2.training:
            x = self.mask(x, lengths)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x).expand(len(x), 1, -1), x], dim=1)
            lengths = None if lengths is None else lengths + 1
        attended = None
        if lengths is not None:
            valid = valid_frames(x, lengths)
            x = x.masked_fill(~valid, 0.0)  # the positional convolution then sees what it sees at the end of a wave
            attended = valid.view(len(x), 1, 1, -1).expand(-1, 1, x.shape[1], -1)
        return self.transform(x, attended)

    def mask(self, x, lengths=None):
        """Hide random spans of frames of `x` (batch, frames, dim), and random spans of channels in all frames."""
        values, (batch, frames, dim) = self.values, x.shape
        if values["mask_time_prob"]:
            hidden = span_mask(
                batch, frames, values["mask_time_prob"], values["mask_time_frames"], 2, lengths, device=x.device
            )
            x = torch.where(hidden.unsqueeze(2), self.masked_spec_embed.to(x.dtype), x)
        if values["mask_feature_prob"]:
            hidden = span_mask(
                batch, dim, values["mask_feature_prob"], values["mask_feature_channels"], device=x.device
            )
            x = x.masked_fill(hidden.unsqueeze(1), 0.0)
        return x

    def transform(self, x, attended=None):
        """Return what the transformer makes of `x` (batch, frames, dim).

        A skipped layer's parameters get a gradient of zeros and not none, so that ranks which skip different layers
        can average theirs. torchaudio's `layer_norm_first` of the transformer is the opposite of that of its layers.

        Args:
            attended: (batch, 1, frames, frames), True where a frame is seen.
        """
        transformer, layer_drop = self.wav2vec2.encoder.transformer, self.values["layerdrop"]
        x = x + transformer.pos_conv_embed(x)
        x = transformer.dropout(transformer.layer_norm(x) if transformer.layer_norm_first else x)
        weights = None if self.layer_weights is None else self.layer_weights.softmax(0)
        total = None if weights is None else weights[0] * x
        draws = [1.0] * len(transformer.layers)
        if self.wav2vec2.training and layer_drop:
            draws = torch.rand(len(draws)).tolist()  # on the CPU: the device need not be waited for
        for number, (layer, draw) in enumerate(zip(transformer.layers, draws), start=1):
            if draw < layer_drop:
                x = x + nothing_of(layer)
            elif self.checkpoint_activations and torch.is_grad_enabled():
                x, _ = checkpoint(layer, x, attended, use_reentrant=False)
            else:
                x, _ = layer(x, attended)
            if number == len(transformer.layers) and not transformer.layer_norm_first:
                x = transformer.layer_norm(x)
            if weights is not None:
                total = total + weights[number] * x
        return x if weights is None else total


def normalise(wave):
    """Subtract the mean of each wave (batch, samples) and divide by its unbiased deviation + 1e-5."""
    deviation, mean = torch.std_mean(wave, dim=1, keepdim=True)
    return (wave - mean) / (deviation + 1e-5)


def nothing_of(module):
    """Return a zero that depends on every trained parameter of `module`: the sum of none of its values."""
    return sum(parameter.flatten()[:0].sum() for parameter in module.parameters() if parameter.requires_grad)


def _check(size, regularisation, num_frozen_steps, sizes, values):
    """Raise ValueError, naming the flag, where an argument is none of its choices or outside its range."""
    for flag, value, choices in (("size", size, SIZES), ("regularisation", regularisation, REGULARISATION)):
        if value not in choices:
            raise ValueError(f"--{flag} {value}: one of {', '.join(choices)}")
    if unknown := sorted(set(sizes) - set(SIZES["base"])):
        raise ValueError(f"sizes: unknown {unknown[0]}, these are: {', '.join(SIZES['base'])}")
    if num_frozen_steps < -1:
        raise ValueError(f"--num_frozen_steps {num_frozen_steps}: at least 0, or -1 for ever")
    for name, value in values.items():
        if isinstance(REGULARISATION["default"][name], float):
            if not 0 <= value <= 1:
                raise ValueError(f"--{name} {value}: must be at least 0 and at most 1")
        elif value < 1:
            raise ValueError(f"--{name} {value}: must be at least 1")
