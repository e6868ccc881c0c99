"""What a user can get wrong in train_diffusion.py and train_classifier.py; test_wrong_input.py runs the cases.
Entry point: CASES, as in wrong_cases.py.
"""

import numpy as np
import soundfile
import torch
from wrong_inputs import Case, file

from audio.tones import Tones
from engine import checkpoint, registry
from scoring.embeddings import Table, write_table

# ---------------------------------------------------------------- how the inputs are made


def words(given):
    """Return the words of {flag: value}, with makers called; None leaves a flag out, True is a bare one."""

    def flags(place):
        found = []
        for name, value in given.items():
            value = value(place) if callable(value) else value
            if value is not None:
                values = [] if value is True else value if isinstance(value, list) else [value]
                found += values if name == "data_dir" else [f"--{name}", *values]
        return found

    return flags


def train(**changes):
    """Return a maker of the flags of a short training on tones."""
    given = {"data_dir": ["tones"], "model": "UNet", "base_channels": 1, "window_seconds": 0.016, "batch_size": 4}
    given |= {"max_steps": 1, "nDataLoaderThread": 0, "device": "cpu", "save_path": lambda place: place.folder / "run"}
    return words(given | changes)


def classify(**changes):
    """Return a maker of the flags of a short training of a classifier."""
    return train(**{"model": "WaveClassifier", "window_seconds": 0.032, **changes})


def speech(*speakers, seconds=0.1):
    """Return a maker of a folder of one recording of each speaker."""

    def make(place):
        for name in speakers:
            (place.folder / "speech" / name).mkdir(parents=True)
            noise = 0.1 * np.random.default_rng(0).standard_normal(int(16000 * seconds))
            soundfile.write(place.folder / "speech" / name / "0.wav", noise, 16000)
        return place.folder / "speech"

    return make


def network(model, task, name="x.pt", **kwargs):
    """Return a maker of a checkpoint of a waveform network."""

    def make(place):
        net = registry.load("models", model, task)(**kwargs)
        card = {"class": f"models.{model}", "kwargs": kwargs, "meta": {}}
        start = "predictor." if task == "diffusion" else ""
        weights = {start + name: tensor for name, tensor in net.state_dict().items()}
        checkpoint.write(place.folder / name, {**card, "state_dict": weights})
        return place.folder / name

    return make


def of_another_schedule(place):
    """Write a run that was trained with another schedule; return its folder."""
    kwargs = {"base_channels": 1, "dropout": 0.0}
    meta = {
        "schedule": "cos", "target": "eps", "encoding": "linear", "window": 256, "cond_dropout": 0.0, "cond": None,
        "speakers": Tones().speakers, "class_cond": False, "dropout": 0.0, "base_channels": 1,
    }  # fmt: skip
    net = registry.load("models", "UNet", "diffusion")(**kwargs)
    weights = {"predictor." + name: tensor for name, tensor in net.state_dict().items()}
    payload = {"class": "models.UNet", "kwargs": kwargs, "meta": meta, "state_dict": weights}
    checkpoint.write(place.folder / "run" / "checkpoints" / "last.pt", {**payload, "training": {"step": 1}})
    return place.folder / "run"


def table(place):
    """Write a table of embeddings of other utterances."""
    names = np.array([b"a/0.wav", b"b/0.wav"])
    meta = {"checkpoint": "x.pt", "sha256": "1", "wav_scale": 1.0}
    write_table(place.folder / "e.npz", Table(names, np.eye(2, 3, dtype=np.float32), np.ones(2, np.float32), meta))
    return place.folder / "e.npz"


def weights_of_nothing(place):
    """Write weights of a layout that no network knows."""
    torch.save({"a": torch.zeros(3)}, place.folder / "x.pt")
    return place.folder / "x.pt"


# ---------------------------------------------------------------- the cases

CASES = {
    "train_diffusion.py": [
        Case("no data", train(data_dir=None), "data_dir is missing"),
        Case("a folder that is not there", train(data_dir=["gone"]), "gone: no such folder or list"),
        Case(
            "a single file, as of the original's first scripts", train(checkpoint_path="model_diffusion.pt"),
            "model_diffusion.pt: a run is a folder, give --save_path FOLDER",
        ),
        Case("samples that are never drawn", train(sample_count=2), "--sample_count is of --sample_interval_steps"),
        Case("a folder without recordings", train(data_dir=lambda p: [p.folder]), "holds no "),
        Case(
            "a length that the U-Net cannot take", train(window_seconds=0.02),
            "320 samples: the length must be a multiple of 256; the next good ones are 256 or 512",
        ),
        Case("a length that WaveGrad cannot take", train(model="wavegrad", window_seconds=0.01), "multiple of 64"),
        Case("fewer windows than a batch", train(batch_size=31), "30 windows, fewer than one batch of 31"),
        Case(
            "fewer windows than a batch, of a folder",
            train(data_dir=lambda p: [speech("a", "b")(p)], spacing_seconds=1), "2 windows, fewer than one batch of 4",
        ),
        Case("a network that does not exist", train(model="UNot"), "nearest: UNet"),
        Case("a network for another task", train(model="WaveClassifier"), "is for the task classifier"),
        Case("dropout of a network that has none", train(model="wavegrad", dropout=0.1), "WaveGrad has no dropout"),
        Case("vectors for a network that takes none", train(model="wavegrad", cond_embeddings=table), "no cond_dim"),
        Case("a schedule that is code", train(schedule="lambda t: t"), "invalid choice: 'lambda t: t'"),
        Case("an unknown encoding", train(encoding="alaw"), "invalid choice: 'alaw'"),
        Case("an unknown target", train(target="x1"), "invalid choice: 'x1'"),
        Case("a share of dropped conditions without any", train(cond_dropout=0.1), "give --class_cond or"),
        Case("a share of dropped conditions above all", train(class_cond=True, cond_dropout=1.5), "--cond_dropout 1.5"),
        Case("utterances without a vector", train(cond_embeddings=table), "no vector of 300Hz/0 (of 30 of 30"),
        Case("a table that is none", train(cond_embeddings=file("e.npz", "x")), "e.npz"),
        Case("an average twice", train(ema="0.9,0.9"), "a rate stands there twice"),
        Case("an average that keeps all", train(ema="0.9,1"), "--ema 1: must be at least 0 and below 1"),
        Case("an average that is no number", train(ema="0.9;1"), "'0.9;1' is no rate"),
        Case("annealing of no end", train(anneal_steps=5, max_steps=0), "--anneal_steps needs --max_steps"),
        Case("annealing longer than the run", train(anneal_steps=5), "more than the 1 steps of the run"),
        Case("annealing by another", train(anneal_steps=5, scheduler="cosine"), "--anneal_steps has no effect"),
        Case("no width", train(base_channels=0), "--base_channels 0: must be at least 1"),
        Case("a flag of networks of images", train(channels_last=True), "--channels_last does nothing"),
        Case("an early stop without judgement", train(early_stop=3), "--early_stop needs --valid_list"),
        Case("a run of another schedule", train(save_path=of_another_schedule), "was trained with schedule 'cos'"),
        Case("first weights of another width", train(initial_model=network("UNet", "diffusion", base_channels=2)),
             "cannot start this network"),
        Case("first weights of no network", train(initial_model=weights_of_nothing), "no network for the task"),
        Case("first weights that are not there", train(initial_model="gone.pt"), "gone.pt: no such file"),
        Case("a target unknown to the original", train(target="v", original_files=True), "only --target eps"),
        Case("a part to freeze that is not there", train(freeze="head"), "no parameter is called head"),
        Case(
            "a speaker beyond the classes",
            train(class_cond=True, valid_list=lambda p: [speech("a", "b")(p)]), "beyond the 3 classes trained on",
        ),
    ],
    "train_classifier.py": [
        Case("a window shorter than a position", classify(window_seconds=0.016), "needs at least 512"),
        Case("one speaker", classify(data_dir=lambda p: [speech("a", seconds=3)(p)], valid_share=0), "of one speaker"),
        Case("a curriculum of no length", classify(curriculum_start=20), "--curriculum_start works with"),
        Case("a curriculum that begins with noise", classify(curriculum_start=0.5, curriculum_steps=9),
             "--curriculum_start 0.5: must be at least 1"),
        Case("nothing to hold out", classify(data_dir=lambda p: [speech("a", "b")(p)]), "cannot be held out"),
        Case("held out and given", classify(valid_share=0.1, valid_list=["tones"]), "leave one out"),
        Case("a network for another task", classify(model="UNet"), "is for the task diffusion"),
        Case("to begin as WaveGrad does", classify(initial_model=network("WaveGrad", "diffusion", base_channels=1)),
             "a classifier begins as a UNet does"),
        Case("to begin as a U-Net with dropout", classify(
            initial_model=network("UNet", "diffusion", base_channels=1, dropout=0.1)), "trained with dropout"),
        Case(
            "a speaker beyond the classes", classify(valid_list=lambda p: [speech("a", "b")(p)]),
            "beyond the 3 classes trained on",
        ),
    ],
}  # fmt: skip
