"""A folder of a WeSpeaker model: config.yaml says what the network is, avg_model.pt holds its weights.
Entry points: read(path, task), files_of, weights_file.

A network that WeSpeaker has too says in CONFIG what its constructor's arguments are called in config.yaml.
"""

from pathlib import Path

import torch
import yaml

from engine import checkpoint, registry
from engine.args import nearest, short

CONFIG = "config.yaml"
# recipes and downloads call the averaged weights differently
WEIGHTS = ("avg_model.pt", "avg_models.pt", "avg_model", "avg_models")
# the front end that is built here; a config that says otherwise is of other features
FRAMES_MS = {"frame_length": 25, "frame_shift": 10}


def files_of(path: str | Path) -> list[Path]:
    """Return the files that decide what --initial_model is: itself, or config and weights of a folder."""
    path = Path(path)
    if not path.is_dir():
        return [path] if path.is_file() else []
    return [path / CONFIG, weights_file(path)]


def weights_file(path: str | Path) -> Path:
    """Return the file that holds the weights of --initial_model: itself, or the averaged weights in a folder.

    Raises:
        FileNotFoundError: the folder has none.
    """
    if not Path(path).is_dir():
        return Path(path)
    found = [Path(path) / name for name in WEIGHTS if (Path(path) / name).is_file()]
    if not found:
        raise FileNotFoundError(f"--initial_model {path}: a folder without {', '.join(WEIGHTS)}")
    return found[0]


def read(path: str | Path, task: str) -> tuple[torch.nn.Module, dict]:
    """Return the network that a folder of WeSpeaker describes (config.yaml: model, model_args) and the weights in it
    (avg_model.pt) under the network's names.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged, the model is not known, or the weights are of
            another model or other arguments (file and key are named).
    """
    file, config = weights_file(path), Path(path) / CONFIG
    values = _read_yaml(config)
    known = {
        name: cls for name in registry.names("models", task) if hasattr(cls := registry.load("models", name), "CONFIG")
    }
    model = values.get("model")
    if model not in known:
        raise ValueError(
            f"{config}: model: {short(model)}{nearest(str(model), list(known))}; one of {', '.join(known)}"
        )
    cls = known[model]
    weights, _ = checkpoint.weights_of(checkpoint.read(file), file)
    found = cls.from_foreign({name.removeprefix("__S__."): tensor for name, tensor in weights.items()})
    if found is None:
        raise ValueError(f"{config}: model: {model}, but {file} holds the weights of another network")
    stored, renamed = found
    given = _constructor_arguments(cls, stored, values, config)
    try:
        network = cls(**{**stored, **given})
    except ValueError as error:
        raise ValueError(f"{config}: model_args: {error}") from None
    own = network.state_dict()
    if any(name not in renamed or renamed[name].shape != tensor.shape for name, tensor in own.items()):
        theirs = {ours: key for key, ours in cls.CONFIG.items()}
        wrong = [f"{theirs[k]} {v} (there {stored[k]})" for k, v in given.items() if k in theirs and v != stored[k]]
        if wrong:
            raise ValueError(f"{config}: model_args do not fit the weights in {file}: {', '.join(wrong)}")
    return network, renamed


def _read_yaml(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the folder of a WeSpeaker model holds it beside the weights")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not a mapping with model and model_args")
    return values


def _constructor_arguments(cls, stored, values, config):
    """Return the constructor arguments that a config names; `stored` are those that the weights show."""
    given = {}
    for key, value in _section(values, "model_args", config).items():
        if key not in cls.CONFIG:
            raise ValueError(f"{config}: model_args: {short(key)} is unknown; known: {', '.join(cls.CONFIG)}")
        name = cls.CONFIG[key]
        if type(value) is not type(stored[name]):
            raise ValueError(f"{config}: model_args: {key}: {short(value)} is no {type(stored[name]).__name__}")
        given[name] = value
    data = _section(values, "dataset_args", config)
    for key, value in _section(data, "fbank_args", config).items():
        wanted = {**FRAMES_MS, "num_mel_bins": given.get("n_mels", value)}.get(key, value)
        if value != wanted:
            raise ValueError(f"{config}: fbank_args: {key}: {short(value)}, but {wanted} is needed here")
    if _section(data, "cmvn_args", config).get("norm_var", False):
        given["normalize_var"] = True
    return given


def _section(values, key, config):
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{config}: {key}: {short(found)} is no mapping")
    return found
