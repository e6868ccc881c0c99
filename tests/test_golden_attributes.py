"""Stored cases of attribute-based recognition: the embedding network and its features here, the rest in the parts.

Every case is run by its kind and arguments, never by its name; an unknown kind, argument or option fails.
"""

import golden_attributes_explanation as explanation
import golden_attributes_likelihood as likelihood
import golden_attributes_network as autoencoder
import numpy as np
import pytest
import soundfile
import torch
from golden_recipes import (
    boolean,
    check_arguments,
    check_contract,
    compare_case,
    fill_modules,
    integer,
    list_of,
    load_cases,
    make_inputs,
    number,
    one_of,
)

from audio.backend import load_torchaudio
from audio.features import KaldiFbank, kaldi_filters
from engine import registry

AREA = "attributes"
CASES = [case for _, case in load_cases(AREA)]
STAGES = ("bn1", "layer1", "layer2", "layer3", "layer4", "pool")
DEPTHS = one_of(18, 34, 50, 101, 152, 221, 293)
POOLINGS = one_of("TSTP", "TSDP", "TAP", "ASTP")
SETTING = {
    "scale": one_of(1, 32768), "window_type": one_of("hamming", "povey"), "num_mel_bins": integer,
    "normalize": one_of("none", "mean", "mean_variance"), "every": integer,
    "reduce": one_of("none", "mean_over_frames"),
}  # fmt: skip


def resnet(depth, feat_dim, embed_dim, pooling="TSTP", two_emb_layer=False):
    options = {"nOut": embed_dim, "n_mels": feat_dim, "encoder_type": pooling, "two_emb_layer": two_emb_layer}
    return registry.load("models", f"ResNet{depth}")(**options)


def watch(network, found):
    """Store into `found` what the stages give; the first linear layer too where there are two."""

    def stage(name):
        def run(module, inputs, output):
            found[f"mean.{name}"], found[f"std.{name}"] = output.mean(), output.std()
            found[f"shape.{name}"] = np.array(output.shape)
            if name == "pool":
                found["pool_slice"] = output[:, :: max(1, output.shape[1] // 64)]

        return run

    def first_layer(module, inputs, output):
        found["embedding_a"] = output.clone()

    hooks = [getattr(network, name).register_forward_hook(stage(name)) for name in STAGES]
    return [*hooks, network.seg_1.register_forward_hook(first_layer)]


def resnet_embedding(case):
    args = case["args"]
    required = {"depth": DEPTHS, "feat_dim": integer, "embed_dim": integer, "pooling": POOLINGS}
    optional = {"gradients_of": list_of(lambda name: isinstance(name, str)), "head": integer}
    check_arguments(args, {**required, "two_emb_layer": boolean, "train_backward": boolean}, optional)
    sizes = {name: args[name] for name in (*required, "two_emb_layer")}
    network = resnet(**sizes).eval()
    fill_modules(case, network=network)
    check_contract(AREA, case, network)
    x = torch.from_numpy(make_inputs(AREA, case, {"x": ("noise",)})["x"]).transpose(1, 2)
    produced = {}
    hooks = watch(network, produced)
    with torch.no_grad():
        produced["embedding"] = network.embed(x)
    for hook in hooks:
        hook.remove()
    if args["train_backward"]:
        network = resnet(**sizes).train()
        fill_modules(case, network=network)
        embedding = network.embed(x)
        loss = embedding.square().mean()
        loss.backward()
        produced |= {"train_embedding": embedding, "train_loss": loss}
        for name in args.get("gradients_of", []):
            gradient = network.get_parameter(name).grad
            produced[f"gradnorm.{name}"] = gradient.norm()
            produced[f"gradhead.{name}"] = gradient.flatten()[: args["head"]]
        for name, buffer in network.named_buffers():
            module, _, statistic = name.rpartition(".")
            produced[f"{statistic}.{module}"] = buffer
    compare_case(AREA, case, produced)


# ---------------------------------------------------------------- features


def front_end(args, window_type, num_mel_bins, normalize="mean"):
    sizes = {"frame_length_ms": args["frame_length_ms"], "frame_shift_ms": args["frame_shift_ms"]}
    normalisation = "mean" if normalize == "none" else normalize
    rate = args.get("sample_rate", args.get("target_rate"))
    return KaldiFbank(num_mel_bins, window_type, normalisation, sample_rate=rate, **sizes)


def features(args, wave, scale, window_type="hamming", num_mel_bins=80, normalize="mean", every=1, reduce="none"):
    """Return the features (frames, bins) of one wave (samples,) in one setting."""
    fbank = front_end(args, window_type, num_mel_bins, normalize)
    found = fbank(scale * wave[None])
    found = found if normalize == "none" else fbank.normalise(found)
    found = found[0].T[::every]
    return found if reduce == "none" else found.mean(0)


def check_settings(args):
    for setting in args["outputs"].values():
        check_arguments(setting, SETTING)
    for setting in args["embeddings"].values():
        check_arguments(setting, {"scale": one_of(1, 32768), "normalize": one_of("mean")})
    check_arguments(args["resnet"], {"depth": one_of(34), "feat_dim": integer, "embed_dim": integer})


def embeddings(case, network, wave):
    """Return {array: embedding} of a wave in the settings that a case asks for."""
    args = case["args"]
    bins = args["resnet"]["feat_dim"]
    with torch.no_grad():
        return {
            name: network.embed(features(args, wave, **setting, num_mel_bins=bins).T[None])[0]
            for name, setting in args["embeddings"].items()
        }


COMMON = {
    "frame_length_ms": number, "frame_shift_ms": number, "dither": one_of(0), "outputs": lambda value: True,
    "resnet": lambda value: True, "embeddings": lambda value: True,
}  # fmt: skip


def kaldi_fbank(case):
    args = case["args"]
    check_arguments(args, {**COMMON, "sample_rate": integer, "mel_matrix": lambda value: True})
    check_settings(args)
    mel = args["mel_matrix"]
    numbers = {"num_mel_bins": integer, "fft": integer, "low_hz": number, "high_hz": number}
    check_arguments(mel, {**numbers, "rows": list_of(integer)})
    network = resnet(**args["resnet"]).eval()
    fill_modules(case, network=network)
    wave = torch.from_numpy(make_inputs(AREA, case, {"wave": ("noise",)})["wave"])
    produced = {name: features(args, wave, **setting) for name, setting in args["outputs"].items()}
    matrix = kaldi_filters(mel["num_mel_bins"], mel["fft"], mel["low_hz"], mel["high_hz"], args["sample_rate"])
    produced |= {"mel_row_sums": matrix.sum(1), "mel_col_sums": matrix.sum(0), "mel_rows_0_40_79": matrix[mel["rows"]]}
    compare_case(AREA, case, produced | embeddings(case, network, wave))


def kaldi_fbank_file(case):
    args = case["args"]
    optional = {"files": lambda value: True, "target_rate": integer, "resample": lambda value: True}
    check_arguments(args, {**COMMON, **optional, "head": integer, "floor": number})
    check_arguments(args["resample"], {"lowpass_filter_width": integer, "rolloff": number, "window": one_of("hann")})
    check_settings(args)
    sinc = {"resampling_method": "sinc_interp_hann", **{k: v for k, v in args["resample"].items() if k != "window"}}
    network = resnet(**args["resnet"]).eval()
    fill_modules(case, network=network)
    produced = {}
    paths = make_inputs(AREA, case, dict.fromkeys(args["files"], ("file",)))
    for tag, path in paths.items():
        samples, rate = soundfile.read(path, dtype="float32")
        wave = torch.from_numpy(samples)
        found = {}
        if rate != args["target_rate"]:
            wave = load_torchaudio().functional.resample(wave, rate, args["target_rate"], **sinc)
            found["resampled_head"] = wave[: args["head"]]
        found |= {name: features(args, wave, **setting) for name, setting in args["outputs"].items()}
        whole = features(args, wave, 1, num_mel_bins=args["resnet"]["feat_dim"], normalize="none")
        found |= {
            "samples16k": np.array(len(wave)), "shape": np.array(whole.shape),
            "floored_fraction": (whole <= np.log(args["floor"])).float().mean(),
        }  # fmt: skip
        found |= embeddings(case, network, wave)
        produced |= {f"{tag}_{name}": array for name, array in found.items()}
    compare_case(AREA, case, produced)


KINDS = {"resnet_embedding": resnet_embedding, "kaldi_fbank": kaldi_fbank, "kaldi_fbank_file": kaldi_fbank_file}
KINDS |= explanation.KINDS | likelihood.KINDS | autoencoder.KINDS


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['name']}" for case in CASES])
def test_stored_case(case):
    kind = case["kind"]
    assert kind in KINDS, f"unknown kind {kind}"
    KINDS[kind]({key: value for key, value in case.items() if key != "name"})
