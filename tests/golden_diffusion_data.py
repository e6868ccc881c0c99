"""Stored cases of the data of waveform diffusion and of the scores: windows, companding, tones, statistics.
Entry point: KINDS, {kind: function(case)}.
"""

import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from golden_recipes import (
    check_arguments,
    check_contract,
    compare_case,
    fill_modules,
    integer,
    make_inputs,
    number,
    one_of,
)
from scipy.special import log_softmax

from audio.companding import ENCODINGS, from_pcm, inverse_mu_law, mu_law, to_pcm
from audio.durations import flatten
from audio.io import read_audio
from audio.tones import Tones
from audio.windows import Windows
from models.WaveClassifier import MainModel as WaveClassifier
from scoring.feature_statistics import gather
from scoring.frechet import class_score, frechet, moments

AREA = "diffusion"


def window_index(case):
    args = case["args"]
    check_arguments(args, {"window_duration": number, "window_spacing": number, "sample_rate": integer})
    tree = make_inputs(AREA, case, {"index": ("tree",)})["index"]
    speakers = sorted(tree)
    found = [(label, s) for label, speaker in enumerate(speakers) for s in flatten(tree[speaker]).values()]
    labels, seconds = (np.array(column) for column in zip(*found))
    windows = Windows(seconds, args["window_duration"], args["window_spacing"], args["sample_rate"])
    recording, offsets = windows.locate(np.arange(len(windows)))
    compare_case(AREA, case, {"offsets": offsets, "labels": labels[recording]})


def companding(case):
    check_arguments(case["args"], {"mu": integer})
    x, mu = make_inputs(AREA, case, {"x": ("noise",)})["x"], case["args"]["mu"]
    compare_case(AREA, case, {"encoded": mu_law(x, mu), "decoded": inverse_mu_law(x, mu)})


def pcm_conversion(case):
    encoding = case["args"]["encoding"]
    check_arguments(case["args"], {"encoding": one_of(*ENCODINGS)})
    integers = to_pcm(make_inputs(AREA, case, {"x": ("list",)})["x"], encoding)
    compare_case(AREA, case, {"int16": integers, "read_back": from_pcm(integers, encoding)})


def tones(case):
    args = case["args"]
    check_arguments(args, {"encoding": one_of("linear"), "length": integer, "head": integer})
    numbers = make_inputs(AREA, case, {"items": ("list",)})["items"].tolist()
    dataset = Tones(args["encoding"], length=args["length"])
    items = [dataset[number] for number in numbers]
    produced = {f"item{number}": item["samples"][: args["head"]] for number, item in zip(numbers, items)}
    compare_case(AREA, case, produced | {"labels": np.array([item["label"] for item in items])})


# ---------------------------------------------------------------- scores


def feature_statistics(case):
    check_arguments(case["args"], {})
    inputs = make_inputs(AREA, case, {"features": ("noise",), "logits": ("noise",)})
    mean, cov = moments(inputs["features"])
    score = class_score(log_softmax(inputs["logits"], axis=1))
    compare_case(AREA, case, {"class_score": score, "trace": np.trace(cov), "mean": mean, "cov": cov})


def frechet_distance(case):
    args = case["args"]
    check_arguments(args, {"mean_dtype": one_of("float32"), "cov_dtype": one_of("float64"), "ddof": integer})
    sides = []
    for features in make_inputs(AREA, case, {"f1": ("noise",), "f2": ("noise",)}).values():
        mean, cov = moments(features)
        cov = cov * (len(features) - 1) / (len(features) - args["ddof"])
        sides += [mean.astype(args["mean_dtype"]), cov.astype(args["cov_dtype"])]
    value = frechet(*sides)
    compare_case(AREA, case, {"value": value, "exact": value})


def folder_statistics(case):
    args = case["args"]
    check_arguments(args, {"base_channels": integer, "num_labels": integer, "time": number})
    files = make_inputs(AREA, case, {"files": ("noise_wavs",)})["files"]
    network = WaveClassifier(args["num_labels"], args["base_channels"]).eval()
    fill_modules(case, module=network)
    check_contract(AREA, case, network)
    with tempfile.TemporaryDirectory() as folder:
        for row, samples in enumerate(files):
            soundfile.write(Path(folder) / f"{row:06d}.wav", samples, 16000, subtype="PCM_16")
        waves = np.stack([read_audio(path) for path in sorted(Path(folder).iterdir())])
    with torch.no_grad():
        features = network.features(torch.from_numpy(waves)[:, None], torch.full((len(waves),), float(args["time"])))
        log_probs = network.out(features).log_softmax(1).numpy()
    found = gather(features.numpy(), log_probs)
    score = class_score(log_probs)
    compare_case(AREA, case, {"mean": found.mean, "cov": found.cov, "probs": found.probs, "class_score": score})


KINDS = {
    "window_index": window_index, "mu_law": companding, "pcm_conversion": pcm_conversion, "tones": tones,
    "feature_statistics": feature_statistics, "frechet_distance": frechet_distance,
    "folder_statistics": folder_statistics,
}  # fmt: skip
