"""wav2vec 2.0 by size: torchaudio's module, its dropouts by regularisation variant, its own initialisation.
Entry points: SIZES, REGULARISATION, build, initialise.
"""

import math

import torch
from torch import nn

from audio.backend import load_torchaudio

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def conv_layers(channels):
    """Return the published layers [[channels, kernel, stride], ...]: 400 samples for a frame, one every 320."""
    return [[channels, kernel, stride] for kernel, stride in zip(KERNELS, STRIDES)]


def _size(norm, channels, dim, layers, heads, feed_forward, kernel=128, groups=16):
    return {
        "extractor_mode": norm,
        "extractor_conv_layer_config": conv_layers(channels),
        "extractor_conv_bias": norm == "layer_norm",
        "encoder_embed_dim": dim,
        "encoder_pos_conv_kernel": kernel,
        "encoder_pos_conv_groups": groups,
        "encoder_num_layers": layers,
        "encoder_num_heads": heads,
        "encoder_ff_interm_features": feed_forward,
        # The published models with layer norm in the convolutions have it before attention as well.
        "encoder_layer_norm_first": norm == "layer_norm",
    }


# by the names of torchaudio's builder; 94, 315, 315 and 0.3 million parameters
SIZES = {
    "base": _size("group_norm", 512, 768, 12, 12, 3072),
    "large": _size("group_norm", 512, 1024, 24, 16, 4096),
    "large_lv60": _size("layer_norm", 512, 1024, 24, 16, 4096),
    "tiny": _size("group_norm", 64, 96, 2, 4, 192, kernel=32, groups=4),
}

_NONE = {
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0,
    "final_dropout": 0.0, "layerdrop": 0.0, "mask_time_prob": 0.0, "mask_time_frames": 10, "mask_feature_prob": 0.0,
    "mask_feature_channels": 64,
}  # fmt: skip
_DROPOUT = {
    "hidden_dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "feat_proj_dropout": 0.1,
    "final_dropout": 0.05,
}  # fmt: skip
_MASKING = {"mask_time_prob": 0.5, "mask_feature_prob": 0.1}
_LAYERDROP = {"layerdrop": 0.1}
_DEFAULT = {**_NONE, **_DROPOUT, **_MASKING, **_LAYERDROP}

# `paper` is what the published runs with the default had in effect: two of the values never reached their network.
REGULARISATION = {
    "default": _DEFAULT,
    "none": {**_NONE, "mask_feature_channels": 10},
    "dropout": {**_NONE, **_DROPOUT},
    "masking": {**_NONE, **_MASKING},
    "layerdrop": {**_NONE, **_LAYERDROP},
    "paper": {**_DEFAULT, "activation_dropout": 0.0, "mask_time_prob": 0.05},
}


def build(sizes, regularisation):
    """Return torchaudio's Wav2Vec2Model of `sizes` (as in SIZES) with the dropouts of `regularisation`, initialised.

    Raises:
        ValueError: the sizes do not go together.
    """
    if sizes["encoder_embed_dim"] % sizes["encoder_num_heads"]:
        raise ValueError(f"wav2vec2: {sizes['encoder_embed_dim']} dimensions for {sizes['encoder_num_heads']} heads")
    model = load_torchaudio().models.wav2vec2_model(
        **sizes,
        encoder_projection_dropout=regularisation["feat_proj_dropout"],
        encoder_attention_dropout=regularisation["attention_dropout"],
        encoder_ff_interm_dropout=regularisation["activation_dropout"],
        encoder_dropout=regularisation["hidden_dropout"],
        encoder_layer_drop=regularisation["layerdrop"],
        aux_num_out=None,
    )
    initialise(model)
    return model


@torch.no_grad()
def initialise(model):
    """Draw the weights of `model` as wav2vec 2.0 does before it is trained.

    Linear layers: normal of deviation 0.02, bias 0. Convolutions: Kaiming's normal, the positional one normal of
    variance 4 / (kernel * dimensions), bias 0. Norms are at 1 and 0 already.
    """
    positional = model.encoder.transformer.pos_conv_embed
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d) and module is not positional.conv:
            nn.init.kaiming_normal_(module.weight)
    deviation = math.sqrt(4 / (positional.kernel_size * positional.embed_dim))
    # Assigned, not drawn in place: the weight is computed from a magnitude and a direction, which this sets.
    positional.conv.weight = deviation * torch.randn_like(positional.conv.weight)
    nn.init.zeros_(positional.conv.bias)
