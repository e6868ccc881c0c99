"""Stored cases of the speaker system: features, networks, losses, crops, metrics, scores, augmentation, sampler.

Every case is run by its section, kind and arguments; an unknown one of these fails.
"""

import json

import numpy as np
import pytest
import torch
from golden.fill import fill
from golden_recipes import (
    boolean,
    check_arguments,
    golden_dir,
    integer,
    list_of,
    load_cases,
    make_inputs,
    number,
    one_of,
    stored,
)

from engine import registry

AREA = "speaker"
MODELS = ("RawNet3", "Res2NetSE34", "ResNetSE34", "ResNetSE34Half", "ResNetSE34L", "ResNetSE34V2", "VGGVox40")
# loss: the module that holds the class weights and is filled, None where there is none
LOSSES = {
    "aamsoftmax": "", "amsoftmax": "", "softmax": "", "softmaxproto": "softmax", "angleproto": None, "ge2e": None,
    "proto": None, "triplet": None,
}  # fmt: skip
LOSS_ARGUMENTS = {
    "nOut": integer, "nClasses": integer, "margin": number, "scale": integer, "easy_margin": boolean, "init_w": number,
    "init_b": number, "hard_rank": integer, "hard_prob": number,
}  # fmt: skip
CASES = load_cases(AREA)


def close(actual, expected, atol, rtol=0.0, what=""):
    """Fail unless the shapes agree and |actual - expected| <= atol + rtol |expected|."""
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=what)


def tensors(inputs):
    return {role: torch.tensor(array) for role, array in inputs.items()}


# ---------------------------------------------------------------- features and networks


def front_end(case):
    from audio.features import SpeakerMel

    allowed = {
        "pre_emphasis": boolean, "window": one_of("hamming", "hann"), "n_mels": integer, "log": boolean,
    }  # fmt: skip
    check_arguments(case["args"], allowed)
    wave = torch.tensor(make_inputs(AREA, case, {"wave": ("noise",)})["wave"])
    mel, expected = SpeakerMel(**case["args"]), stored(AREA, case)
    close(mel.mel(wave), expected["pre_norm"], case["atol"], case["rtol"], "before normalisation")
    close(mel(wave), expected["features"], case["atol"], case["rtol"], "features")


def filled_network(case):
    """Return the network of a case with its weights; those of `keep_default_init` keep their initial values."""
    assert case["model"] in MODELS, f"unknown model {case['model']}"
    network = registry.build(registry.load("models", case["model"]), case["args"])
    kept = {name: p.detach().clone() for name, p in network.named_parameters()}
    fill(network)
    with torch.no_grad():
        for name in case.get("keep_default_init", []):
            network.get_parameter(name).copy_(kept[name])
    return network


def speaker_embedding(case):
    encoders = one_of("ASP", "ECA", "MAX", "SAP", "TAP")
    optional = {"n_mels": integer, "log_input": boolean, "sinc_stride": integer}
    check_arguments(case["args"], {"nOut": integer, "encoder_type": encoders}, optional)
    assert case["mode"] == "eval"
    network = filled_network(case).eval()
    assert sum(p.numel() for p in network.parameters()) == case["parameter_count"]
    names = json.loads((golden_dir(AREA) / "state_dicts.json").read_text())["models"][case["state_dict"]]
    assert {name: list(p.shape) for name, p in network.named_parameters()} == names["parameters"]
    entries = {name: list(t.shape) for name, t in network.state_dict().items()}
    assert entries == {**names["parameters"], **names["buffers"]}
    wave = tensors(make_inputs(AREA, case, {"wave": ("noise", "noise_am")}))["wave"]
    with torch.no_grad():
        close(network(wave), stored(AREA, case)["embedding"], case["atol"], case["rtol"], "embedding")


def speaker_training_forward(case):
    required = {"nOut": integer, "encoder_type": one_of("ASP", "SAP", "TAP"), "log_input": boolean}
    check_arguments(case["args"], required, {"n_mels": integer})
    assert case["mode"] == "train"
    network, expected = filled_network(case).train(), stored(AREA, case)
    inputs = tensors(make_inputs(AREA, case, {"wave": ("noise",), "probe": ("noise",)}))
    embedding = network(inputs["wave"])
    objective = (embedding * inputs["probe"]).sum()
    objective.backward()
    tolerance = {"atol": case["atol"], "rtol": case["rtol"]}
    close(embedding, expected.pop("embedding"), **tolerance, what="embedding")
    # A sum over all elements: their rounding errors, allowed `atol` each and weighted by the probe, add up in squares.
    close(objective, expected.pop("objective"), case["atol"] * float(inputs["probe"].norm()), what="objective")
    for quantity, values in expected.items():
        kind, _, name = quantity.partition(".")
        if kind == "buffer":
            close(network.get_buffer(name).flatten()[:16], values, **tolerance, what=quantity)
            continue
        assert kind == "grad", f"unknown quantity {quantity}"
        gradient = network.get_parameter(name).grad
        found = torch.cat([gradient.sum()[None], gradient.norm()[None], gradient.flatten()[:14]])
        # Relative to the stored norm; the sum of n elements may be off by sqrt(n) times that.
        scale = np.full(len(values), case["grad_rtol"][name] * values[1])
        scale[0] *= gradient.numel() ** 0.5
        close(found / scale, values / scale, atol=1, what=quantity)


# ---------------------------------------------------------------- losses


def filled_loss(case):
    """Return the loss of a case, built as the trainer does, with its weights."""
    assert case["loss"] in LOSSES, f"unknown loss {case['loss']}"
    loss = registry.build(registry.load("loss", case["loss"]), case["args"])
    part = LOSSES[case["loss"]]
    if part is not None and case["fill"] != "default initial values":
        fill(loss.get_submodule(part))
    return loss


def loss(case):
    check_arguments(case["args"], {}, LOSS_ARGUMENTS)
    module, expected = filled_loss(case), stored(AREA, case)
    inputs = tensors(make_inputs(AREA, case, {"x": ("stored",), "labels": ("list",)}))
    assert module.test_normalize == case["test_normalize"]
    assert [{"name": n, "shape": list(p.shape)} for n, p in module.named_parameters()] == case["parameters"]
    x = inputs["x"].requires_grad_()
    value, accuracy = module(x, inputs["labels"])
    value.backward()
    close(value, expected["loss"], 0, case["rtol_loss"], "loss")
    close(accuracy, expected["prec1"], 0, case["rtol_loss"], "prec1")
    gradients = {"grad_x": x.grad, **{f"grad.{name}": p.grad for name, p in module.named_parameters()}}
    assert set(gradients) == {name for name in expected if name.startswith("grad")}
    # A gradient that is 0 in exact arithmetic (that of a bias common to all logits) holds only rounding errors.
    rounding = 1e-6 * max(np.abs(expected[name]).max() for name in gradients)
    for name, gradient in gradients.items():
        close(gradient, expected[name], case["rtol_grad"] * np.abs(expected[name]).max() + rounding, what=name)
    for name, parameter in module.named_parameters():
        if f"value.{name}" in expected:
            close(parameter, expected[f"value.{name}"], 1e-7, what=name)


def system(case):
    from SpeakerNet import SpeakerNet

    required = {
        name: LOSS_ARGUMENTS[name] for name in ("nOut", "nClasses", "margin", "scale", "hard_rank", "hard_prob")
    }
    required |= {"encoder_type": one_of("SAP"), "n_mels": integer, "log_input": boolean, "nPerSpeaker": integer}
    check_arguments(case["args"], required)
    inputs, expected = tensors(make_inputs(AREA, case, {"wave": ("noise",), "labels": ("list",)})), stored(AREA, case)
    net = SpeakerNet(filled_network(case).eval(), filled_loss(case), wav_scale=1.0)
    wave = inputs["wave"]
    assert wave.shape[1] == case["args"]["nPerSpeaker"]
    with torch.no_grad():
        value, accuracy = net(wave, inputs["labels"])
        embedding = net(wave.transpose(0, 1).flatten(0, 1))
    close(value, expected["loss"], 0, case["rtol_loss"], "loss")
    close(accuracy, expected["prec1"], 0, case["rtol_loss"], "prec1")
    close(embedding, expected["embedding"], case["atol"], what="embedding")
    listed, names = set(case["state_dict_names"]), set(net.state_dict())
    assert listed - {"..."} <= names
    assert "..." in listed or names <= listed
    assert {n for n in names if n.startswith("__L__.")} <= listed


# ---------------------------------------------------------------- loader, metrics, scores


def crops(case, folder):
    import soundfile

    from audio.crops import crop_samples, eval_crops, eval_starts, train_start
    from audio.io import read_audio

    args, expected = case["args"], stored(AREA, case)
    training = args["mode"] == "train"
    required = {"mode": one_of("eval", "train"), "max_frames": integer}
    check_arguments(args, {**required, "u": list_of(number)} if training else required, {"num_eval": integer})
    length = crop_samples(args["max_frames"])
    if training:
        samples = make_inputs(AREA, case, {"samples": ("constant",)})["samples"]
        close([train_start(u, samples, length) for u in args["u"]], expected["starts"], 0, what="starts")
        return
    wave = make_inputs(AREA, case, {"wave": ("noise_int16",)})["wave"]
    soundfile.write(folder / "a.wav", wave, 16000, subtype="PCM_16")
    num_eval = args.get("num_eval", 10)
    found = eval_crops(read_audio(str(folder / "a.wav")), args["max_frames"], num_eval) * 32768.0
    starts = eval_starts(len(wave), length, num_eval) if args["max_frames"] else np.zeros(1)
    close(starts, expected["starts"], 0, what="starts")
    close(found.shape, expected["shape"], 0, what="shape")
    close(found[:, :8], expected["first8"], 0, what="first samples")
    close(found[:, -8:], expected["last8"], 0, what="last samples")
    close(found.sum(1, dtype=np.float64), expected["sum"], 0, what="sums")


def eer_mindcf(case):
    from scoring.metrics import eer, min_dcf

    check_arguments(case["args"], {"eer_method": one_of("nearest")})
    inputs = make_inputs(AREA, case, {"labels": ("stored",), "scores": ("noise", "stored")})
    expected = stored(AREA, case)
    value, _ = eer(inputs["scores"], inputs["labels"], method=case["args"]["eer_method"])
    close(value, expected["eer"], case["atol"], what="EER")
    for p_target, c_miss, c_fa, _, _, least in expected["mindcf"]:
        found, _ = min_dcf(inputs["scores"], inputs["labels"], p_target, c_miss, c_fa)
        close(found, np.float64(least), case["atol"], what=f"minDCF at {p_target}, {c_miss}, {c_fa}")


def trial_score(case):
    from scoring.trials import score_trials

    args = case["args"]
    check_arguments(args, {"test_normalize": boolean, "crops": list_of(integer), "dim": integer})
    inputs = tensors(make_inputs(AREA, case, {"ref": ("noise", "noise_sum"), "com": ("noise", "noise_sum")}))
    table = torch.cat([inputs["ref"], inputs["com"]])
    assert [len(inputs["ref"]), len(inputs["com"]), table.shape[1]] == [*args["crops"], args["dim"]]
    if args["test_normalize"]:
        table = torch.nn.functional.normalize(table, dim=1)
    offsets = np.array([0, len(inputs["ref"]), len(table)])
    found = score_trials(table, offsets, np.array([[0, 1]]), mode="distance")
    close(found[0], stored(AREA, case)["score"], case["atol"], what="score")


# ---------------------------------------------------------------- augmentation, sampler


def ends(wave):
    """Return the first 32 samples of `wave` (1, samples) and [sum, sum of squares]."""
    wave = np.asarray(wave, np.float64).ravel()
    return wave[:32], np.array([wave.sum(), (wave**2).sum()])


def additive(case):
    from audio.augment import ADDITIVE, mix

    args = case["args"]
    check_arguments(args, {"count_range": list_of(integer), "snr_range": list_of(integer), "snrs": list_of(number)})
    assert case["kind"] in ADDITIVE
    inputs, expected = make_inputs(AREA, case, {"clean": ("noise",), "noises": ("noise_sequence",)}), stored(AREA, case)
    assert len(inputs["noises"]) == len(args["snrs"])
    clean = inputs["clean"].astype(np.float64)
    for quantity, floor in (("mixture", 1e-4), ("exact", 0.0)):
        found = mix(clean, [n.astype(np.float64) for n in inputs["noises"]], args["snrs"], floor)
        assert found.shape == clean.shape
        for part, values in zip(("first32", "sum"), ends(found)):
            name = f"{quantity}_{part}"
            close(values, expected[name].ravel(), case["atol"], case["rtol"], name)


def reverb(case):
    from audio.augment import reverberate

    check_arguments(case["args"], {})
    inputs = make_inputs(AREA, case, {"clean": ("noise",), "rir": ("decaying_noise",)})
    expected, clean = stored(AREA, case), inputs["clean"].astype(np.float64)
    found = reverberate(clean, inputs["rir"].astype(np.float64))
    assert found.shape == clean.shape
    first, sums = ends(found)
    for name, values in (("first32", first), ("last32", found.ravel()[-32:]), ("sum", sums)):
        close(values, expected[name].ravel(), case["atol"], case["rtol"], name)


def sampler(case):
    from audio.samplers import speaker_groups

    args = case["args"]
    names = ("nPerSpeaker", "max_seg_per_spk", "batch_size", "seed", "epoch", "world_size")
    check_arguments(args, dict.fromkeys(names, integer))
    labels = make_inputs(AREA, case, {"labels": ("permuted_counts",)})["labels"]
    each, most, size = args["nPerSpeaker"], args["max_seg_per_spk"], args["batch_size"] * args["world_size"]

    def batches(epoch):
        return speaker_groups(labels, each, most, args["batch_size"], args["seed"], epoch, args["world_size"])

    available = np.minimum(np.bincount(labels), most) // each
    assert available.sum() == case["groups_before_batching"]
    if sum(case["groups_kept"]) == 0:
        with pytest.raises(ValueError, match="speakers"):
            batches(args["epoch"])
        return
    found = batches(args["epoch"])
    assert found.shape[1:] == (size, each) and len(found) > 0
    assert len(np.unique(found)) == found.size, "an utterance occurs twice in an epoch"
    speakers = labels[found]
    assert (speakers == speakers[:, :, :1]).all(), "a group of several speakers"
    assert all(len(set(batch)) == size for batch in speakers[:, :, 0].tolist()), "a speaker twice in a batch"
    assert (np.bincount(speakers[:, :, 0].ravel(), minlength=len(available)) <= available).all()
    assert (found == batches(args["epoch"])).all(), "the same epoch twice differs"
    other = batches(args["epoch"] + 1)
    assert other.shape != found.shape or (other != found).any(), "two epochs in the same order"


KINDS = {
    ("front_end", "front_end"): front_end,
    ("models", "speaker_embedding"): speaker_embedding,
    ("models", "speaker_training_forward"): speaker_training_forward,
    ("losses", "loss"): loss,
    ("losses", "system"): system,
    ("loader", "crops"): crops,
    ("metrics", "eer_mindcf"): eer_mindcf,
    ("scoring", "trial_score"): trial_score,
    ("augment", "noise"): additive,
    ("augment", "music"): additive,
    ("augment", "speech"): additive,
    ("augment", "reverb"): reverb,
    ("sampler", "sampler"): sampler,
}


@pytest.mark.parametrize("section,case", CASES, ids=[f"{section}-{case['id']}" for section, case in CASES])
def test_stored_case(section, case, tmp_path):
    assert (section, case["kind"]) in KINDS, f"unknown kind {case['kind']} in section {section}"
    run = KINDS[section, case["kind"]]
    run(case, tmp_path) if run is crops else run(case)
