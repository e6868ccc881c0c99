"""Published wav2vec 2.0 weights under the names of models/Wav2Vec2.py: Hugging Face's and torchaudio's layouts.
Entry points: from_foreign (a state dict of either), pretrained (a pipeline of torchaudio).
"""

import re

from audio.backend import load_torchaudio
from models.blocks.wav2vec2_build import KERNELS, SIZES, STRIDES

# All else belongs to pre-training or to a task: quantizer, project_q, project_hid, lm_head, aux, classifier.
KEPT = ("feature_extractor.", "feature_projection.", "encoder.")
PREFIXES = ("wav2vec2.", "model.")

# The first rule that fits is applied; torchaudio's names fit none.
RULES = (
    (r"^feature_projection\.", "encoder.feature_projection."),
    (r"^encoder\.(?!feature_projection\.|transformer\.)", "encoder.transformer."),
)
WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}  # of the published models, by dimension: shapes do not tell


def torchaudio_name(name):
    """Return what torchaudio calls the tensor that Hugging Face (or torchaudio) calls `name`; None: it is dropped."""
    if not name.startswith(KEPT):
        return None
    for pattern, replacement in RULES:
        if re.match(pattern, name):
            name = re.sub(pattern, replacement, name)
            break
    *path, last = name.split(".")
    return ".".join([*path, WEIGHT_NORM.get(last, last)])


def from_foreign(weights):
    """Return (constructor arguments, weights under this network's names) of a foreign wav2vec 2.0, or None.

    Masked frames' embedding stays where it is; what the network has no place for is left out.

    Args:
        weights: {name: tensor} of a file of Hugging Face or torchaudio, fine-tuned ones included.
    """
    prefix = next((p for p in PREFIXES if f"{p}feature_extractor.conv_layers.0.conv.weight" in weights), "")
    renamed = {}
    for name, tensor in weights.items():
        name = name.removeprefix(prefix)
        if name == "masked_spec_embed":
            renamed[name] = tensor
        elif (own := torchaudio_name(name)) is not None:
            renamed[f"wav2vec2.{own}"] = tensor
    try:
        return _arguments(renamed), renamed
    except (LookupError, ValueError, ZeroDivisionError):  # a tensor is missing, or is of another number of dimensions
        return None


def _arguments(weights):
    """Return {"size": name} of the size that `weights` have, with "sizes" where none of the names fits."""
    shapes = {name.removeprefix("wav2vec2."): tuple(tensor.shape) for name, tensor in weights.items()}
    dim, channels = shapes["encoder.feature_projection.projection.weight"]
    position = shapes["encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1"]
    convolutions = []
    while (name := f"feature_extractor.conv_layers.{len(convolutions)}.conv.weight") in shapes:
        convolutions.append([shapes[name][0], shapes[name][2]])
    published = tuple(kernel for _, kernel in convolutions) == KERNELS
    strides = STRIDES if published else [5] + [2] * len(convolutions)
    norm = "layer_norm" if "feature_extractor.conv_layers.1.layer_norm.weight" in shapes else "group_norm"
    layers = {name.split(".")[3] for name in shapes if name.startswith("encoder.transformer.layers.")}
    found = {
        "extractor_mode": norm,
        "extractor_conv_layer_config": [[*layer, stride] for layer, stride in zip(convolutions, strides)],
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in shapes,
        "encoder_embed_dim": dim,
        "encoder_pos_conv_kernel": position[2],
        "encoder_pos_conv_groups": dim // position[1],
        "encoder_num_layers": len(layers),
        "encoder_ff_interm_features": shapes["encoder.transformer.layers.0.feed_forward.intermediate_dense.bias"][0],
        "encoder_layer_norm_first": norm == "layer_norm",
    }
    for name, sizes in SIZES.items():
        if found == {key: value for key, value in sizes.items() if key != "encoder_num_heads"}:
            return {"size": name}
    return {"size": "base", "sizes": {**found, "encoder_num_heads": HEADS.get(dim, 1 if dim % 64 else dim // 64)}}


def pretrained(name):
    """Return the state dict of a pipeline of torchaudio ("WAV2VEC2_BASE"), downloaded where it is not cached.

    Raises:
        ValueError: there is no such pipeline, or it cannot be downloaded.
    """
    pipelines = load_torchaudio().pipelines
    names = sorted(n for n in dir(pipelines) if n.startswith("WAV2VEC2_"))
    if name not in names:
        raise ValueError(f"torchaudio:{name}: no such pipeline, these are: {', '.join(names)}")
    try:
        return getattr(pipelines, name).get_model().state_dict()
    except (OSError, RuntimeError) as error:  # no network, no room, or a download that was cut off
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"torchaudio:{name} cannot be downloaded ({reason[:200]}): fetch the file (Hugging Face's or torchaudio's) "
            "where there is a network and give its path as --initial_model"
        ) from None
