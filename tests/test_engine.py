"""Flags and configs, classes by name, checkpoints, import boundaries."""

import ast
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from engine import checkpoint, registry
from engine.args import add_bool, make_parser, parse, parse_bool, read_config, write_args


def small_parser():
    parser = make_parser("test")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--weight_decay", type=float, default=0.0)
    parser.add_argument("--steps", "--num_steps", type=int, default=3)
    parser.add_argument("--name", default="")
    parser.add_argument("--mode", choices=("a", "b"), default="a")
    add_bool(parser, "--augment")
    add_bool(parser, "--eval")
    return parser


def parsed(*argv):
    return parse(small_parser(), [str(a) for a in argv])


@pytest.mark.parametrize(
    "text, value", [("True", True), ("1", True), ("yes", True), ("false", False), ("0", False), ("No", False)]
)
def test_booleans_mean_what_they_say(text, value):
    assert parse_bool(text) is value
    assert parsed("--augment", text)[0].augment is value


def test_bare_boolean_is_true_and_anything_else_is_refused(capsys):
    args, given = parsed("--augment", "--lr", "0.5")
    assert args.augment is True and args.eval is False and given == {"augment": "flag", "lr": "flag"}
    with pytest.raises(SystemExit):
        parsed("--augment", "maybe")
    message = capsys.readouterr().err
    assert "neither True/1/yes" in message and message.count("\n") == 1


def test_order_is_defaults_flags_config_set(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text("lr: 1e-3\nweight_decay: 5e-05\nnum_steps: 7\naugment: yes\n")
    args, given = parsed("--lr", 0.5, "--config", config, "--set", "steps=9", "--set", "augment=False")
    assert (args.lr, args.weight_decay, args.steps, args.augment) == (1e-3, 5e-5, 9, False)
    assert given == {"lr": "config", "weight_decay": "config", "steps": "set", "augment": "set"}
    assert "changes --lr from 0.5 to 0.001" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, message",
    [
        ("lrr: 1", "unknown key 'lrr', nearest: lr"),
        ("lr: fast", "'fast' is no float"),
        ("lr: .nan", "not a finite number"),
        ("steps: 1.5", "is no int"),
        ("steps: true", "is no number"),
        ("augment: maybe", "neither True"),
        ("mode: c", "none of a, b"),
        ("lr: [1, 2]", "one value is needed"),
        ("lr: {a: 1}", "nested"),
        ("- 1", "a config is a mapping"),
        ("a: [", "not valid YAML"),
        ("lr: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("config: x.yaml", "unknown key 'config'"),
        ("lr:", "a value is needed"),
    ],
)  # fmt: skip
def test_bad_configs_are_one_clear_error(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parsed("--config", path)
    assert "c.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_config_is_an_empty_mapping_and_stored_arguments_come_back(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    assert read_config(tmp_path / "c.yaml") == {}
    args, _ = parsed("--lr", 0.25, "--name", "true", "--augment")
    write_args(tmp_path / "args.yaml", args, {"torch": "2"})
    again, _ = parsed("--config", tmp_path / "args.yaml")
    assert (again.lr, again.name, again.augment) == (0.25, "true", True)
    assert "eval" not in read_config(tmp_path / "args.yaml")


def test_unknown_flags_name_the_nearest(capsys):
    with pytest.raises(SystemExit):
        parsed("--wait_decay", 1)
    assert "nearest: --weight_decay" in capsys.readouterr().err


def test_registry_lists_names_and_explains():
    assert "ResNetSE34L" in registry.names("models", "speaker") and "aamsoftmax" in registry.names("loss")
    assert not any(name.startswith("_") for name in registry.names("loss"))
    with pytest.raises(ValueError, match="nearest: ResNetSE34V2"):
        registry.load("models", "ResNetSE34v2")
    for bad in ("../engine/args", "os", "models.VGGVox", ""):
        with pytest.raises(ValueError):
            registry.load("models", bad)
    with pytest.raises(ValueError, match="--decoder resnet: not found, nearest: resnet"):
        registry.load_backbone("resnet", "--decoder")


def test_idle_flags_are_errors_and_idle_config_keys_are_warnings():
    class Takes:
        def __init__(self, margin):
            pass

    flags = ("margin", "scale")
    assert registry.check_taken({"margin": "flag"}, flags, {"x": Takes}) == []
    with pytest.raises(ValueError, match="--scale has no effect"):
        registry.check_taken({"scale": "flag"}, flags, {"x": Takes})
    assert "scale" in registry.check_taken({"scale": "config"}, flags, {"x": Takes})[0]


class Small(torch.nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.__S__ = torch.nn.Linear(3, 2)
        self.__L__ = torch.nn.Linear(2, classes)


LAYOUTS = {
    "bare, 2020": lambda s: s,
    "with module. in front": lambda s: {"module." + k: v for k, v in s.items()},
    "with module. inside": lambda s: {k.replace("__S__.", "__S__.module."): v for k, v in s.items()},
    "model, unprefixed": lambda s: {"model": {k[6:]: v for k, v in s.items() if k.startswith("__S__.")}},
    "model_state_dict": lambda s: {
        "model_state_dict": s,
        "optimizer_state_dict": {},
        "scheduler_state_dict": {},
        "epoch": 3,
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_historical_layouts_load(layout, tmp_path):
    source, target = Small(), Small()
    torch.save(LAYOUTS[layout](source.state_dict()), tmp_path / "x.model")
    weights, card = checkpoint.weights_of(checkpoint.read(tmp_path / "x.model"))
    assert card == {}
    checkpoint.load_weights(target, weights, "x.model")
    assert torch.equal(target.__S__.weight, source.__S__.weight)


def test_a_head_of_another_size_is_skipped_with_a_message_and_other_mismatches_are_errors():
    source, target = Small(4), Small(6)
    messages = checkpoint.load_weights(target, source.state_dict(), "x.pt")
    assert "head not taken over" in messages[1] and "(4, 2) there and (6, 2) here" in messages[1]
    assert torch.equal(target.__S__.weight, source.__S__.weight)
    with pytest.raises(ValueError, match="the head must fit"):
        checkpoint.load_weights(target, source.state_dict(), "x.pt", keep_head=True)
    smaller = Small(2)
    checkpoint.load_weights(smaller, source.state_dict(), "x.pt", keep_head_rows=2)
    assert torch.equal(smaller.__L__.weight, source.__L__.weight[:2])
    wrong = {**source.state_dict(), "__S__.extra": torch.zeros(1)}
    del wrong["__S__.bias"]
    with pytest.raises(ValueError, match="__S__.bias is missing; __S__.extra is not part"):
        checkpoint.load_weights(target, wrong, "x.pt")
    assert "--allow_partial" in checkpoint.load_weights(target, wrong, "x.pt", allow_partial=True)[-1]


def test_bad_checkpoints_are_named(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError, match="x.pt"):
        checkpoint.read(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match="Git-LFS pointer of 6. bytes"):
        checkpoint.read(path)
    for content in (b"", b"not a checkpoint at all", b"PK\x03\x04" + b"\0" * 50):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x.pt"):
            checkpoint.read(path)

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    torch.save({"state_dict": Evil()}, path)
    with pytest.raises(ValueError, match="plain tensors"):
        checkpoint.read(path)
    assert not (tmp_path / "ran").exists()
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="no known checkpoint layout"):
        checkpoint.weights_of(checkpoint.read(path), path)


def test_writing_is_atomic_and_refuses_what_could_not_be_read_back(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    checkpoint.write(path, {"a": torch.ones(3)})
    with pytest.raises(TypeError, match=r"x.pt\['meta'\]\['v'\] is a"):
        checkpoint.write(path, {"meta": {"v": object()}})

    def full(payload, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"a": torch.zeros(3)})
    monkeypatch.undo()
    assert torch.equal(checkpoint.read(path)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoint.write(folder / "step_1.pt", {"training": {"counters": 1}})
    (folder / "last.pt").write_bytes(b"half a file")
    path, payload = checkpoint.newest(tmp_path)
    assert path.name == "step_1.pt" and payload["training"] == {"counters": 1}
    (folder / "step_1.pt").unlink()
    with pytest.raises(ValueError, match="nothing to resume from"):
        checkpoint.newest(tmp_path)
    assert checkpoint.newest(tmp_path / "other") is None


STANDARD = sys.stdlib_module_names
ALLOWED = {
    "engine": {"torch", "yaml", "tqdm", "numpy", "safetensors", "engine"},
    "audio": {"torch", "torchaudio", "numpy", "scipy", "soundfile", "audio"},
    # two networks hold a noise predictor whole
    "models": {
        "torch",
        "models.blocks",
        "models.UNet",
        "models.WaveGrad",
        "audio.features",
        "audio.log_mel",
        "audio.masks",
        "audio.backend",
        "engine.registry",  # an autoencoder names its backbones, and their options
        "engine.args",
    },
    "backbones": {"torch", "models.blocks"},
    "loss": {"torch", "loss"},
    "diffusion": {"torch", "diffusion"},
    "optimizer": {"torch", "optimizer"},
    "scheduler": {"torch", "scheduler"},
    "scoring": {"numpy", "scipy", "sklearn", "matplotlib", "torch", "scoring"},
    "corpora": {"audio", "corpora", "engine.log", "numpy", "tqdm"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", ALLOWED)
def test_who_imports_whom(folder):
    wrong = []
    for path in (ROOT / folder).rglob("*.py"):
        for name in set(imports(path)):
            parts = name.split(".")
            prefixes = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
            from_parent = any(rule.startswith(name + ".") for rule in ALLOWED[folder])
            if parts[0] not in STANDARD and not prefixes & ALLOWED[folder] and not from_parent:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_torchaudio_is_imported_in_one_place():
    users = [
        p
        for p in ROOT.rglob("*.py")
        if ".venv" not in p.parts and any(n.split(".")[0] == "torchaudio" for n in imports(p))
    ]
    assert [p.relative_to(ROOT).as_posix() for p in users if "tests" not in p.parts] in ([], ["audio/backend.py"])


def test_importing_changes_nothing():
    code = """
import random, warnings, sys
import torch
before = torch.get_rng_state(), random.getstate(), list(warnings.filters), torch.backends.cudnn.benchmark
import DatasetLoader, SpeakerNet, tuneThreshold, engine.loop
after = torch.get_rng_state(), random.getstate(), list(warnings.filters), torch.backends.cudnn.benchmark
assert torch.equal(before[0], after[0]) and before[1] == after[1] and before[3] == after[3]
mine = [f for f in after[2] if f not in before[2]]
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["trainSpeakerNet.py", "tuneThreshold.py", "dataprep.py"])
def test_every_script_explains_itself(script):
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--" in done.stdout and len(done.stdout) > 500, done.stderr


def test_args_need_no_torch():
    code = "import sys, engine.args; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
