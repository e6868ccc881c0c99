"""Checkpoints: written atomically, plain data only, read with weights_only=True; foreign layouts known by their keys.
Entry points: write, read, weights_of (any layout), load_weights (into a module), newest and save_run (a run folder).
"""

import hashlib
import os
import pickle
import re
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch

from engine import distributed
from engine.args import short
from engine.state import State

LAST, BEST = "last.pt", "best.pt"

# What a checkpoint says of itself.
CARD = {"class": str, "kwargs": dict, "meta": dict}


def write(path: str | Path, payload: dict):
    """Write `payload` to a temporary file beside `path`, flush it and rename it, so that `path` is never half written.

    Raises:
        OSError: the disk is full or not writable; the file that was there before is untouched.
    """
    path = Path(path)
    check_plain(payload, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its own writer
        Path(temporary).unlink(missing_ok=True)
        if str(error).startswith("DataLoader worker"):
            raise  # its death is told by a signal, whose handler raised here
        raise OSError(
            f"{path}: could not be written ({error}); free some space and run the same command again"
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def check_plain(value, where: str):
    """Raise TypeError where `value` holds anything that a weights-only load would refuse, naming the place."""
    if isinstance(value, dict):
        for key, item in value.items():
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for number, item in enumerate(value):
            check_plain(item, f"{where}[{number}]")
    elif not (value is None or isinstance(value, torch.Tensor) or type(value) in (bool, int, float, str)):
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds plain data only")


def read(path: str | Path):
    """Read a checkpoint onto the CPU without running any code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is a Git-LFS pointer, truncated, no checkpoint, or holds more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path}: no such file")
    with open(path, "rb") as file:
        head = file.read(40)
    if head.startswith(b"version https://git-lfs"):
        size = path.stat().st_size
        raise ValueError(
            f"{path} is a Git-LFS pointer of {size} bytes, not the weights: run `git lfs pull` where it came from"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not compare the check sums
            if damaged is not None:
                raise ValueError(f"the check sum of {damaged[:80]} is wrong")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it advises to report other pickle protocols to PyTorch
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message advises to switch the protection off
        raise ValueError(
            f"{path}: not a checkpoint of plain tensors: no checkpoint, or one with code, which is not run"
        ) from None
    except Exception as error:  # the readers of zip, pickle and safetensors raise all kinds on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: damaged or not a checkpoint ({reason[:200]})") from None


def file_hash(path: str | Path) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 sum of a file, by which results name their checkpoint."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def weights_of(payload, path: str | Path = "checkpoint") -> tuple[dict[str, torch.Tensor], dict]:
    """Return the state dict with our names (`__S__.` network, `__L__.` loss) and the card {"class", "kwargs", "meta"}.

    Layouts: ours; a bare state dict of 2020 (with `module.` anywhere in its names); {"model": network};
    {"model_state_dict": ...}; {"state_dict": ...}. The card is empty for all but ours: flags must then say what the
    network is. Of a run with averaged weights (EMA) these are returned, since it was evaluated with them.

    Raises:
        ValueError: none of these.
    """
    card = {}
    if not isinstance(payload, dict):
        raise ValueError(f"{path}: holds a {type(payload).__name__}, not a state dict")
    if "state_dict" in payload and "class" in payload:
        card = {key: payload.get(key) for key in CARD}
        wrong = [key for key, kind in CARD.items() if not isinstance(card[key], kind)]
        if wrong:
            raise ValueError(f"{path}: damaged: its {wrong[0]!r} is a {type(card[wrong[0]]).__name__}")
        training = payload.get("training")
        averaged = training.get("ema") if isinstance(training, dict) else None
        state = list(averaged.values())[-1] if averaged and isinstance(averaged, dict) else payload["state_dict"]
    elif "model_state_dict" in payload:
        state = payload["model_state_dict"]
    elif isinstance(payload.get("model"), dict):
        state = payload["model"]
    elif isinstance(payload.get("state_dict"), dict):
        state = payload["state_dict"]
    else:
        state = payload
    if not isinstance(state, dict) or not state or not all(map(_is_weight, state, state.values())):
        keys = ", ".join(short(key) for key in list(payload)[:6])
        raise ValueError(f"{path}: no known checkpoint layout (keys: {keys})")
    if card:
        return dict(state), card
    named = {re.sub(r"(^|\.)module\.", r"\1", name): tensor for name, tensor in state.items()}
    if not any(name.startswith(("__S__.", "__L__.")) for name in named):
        named = {"__S__." + name: tensor for name, tensor in named.items()}
    return named, card


def _is_weight(name, value):
    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized)
    )


def load_weights(
    module: torch.nn.Module,
    weights: dict[str, torch.Tensor],
    path: str | Path,
    head: str = "__L__.",
    keep_head: bool = False,
    keep_head_rows: int = 0,
    allow_partial: bool = False,
    may_lack: tuple[str, ...] = (),
) -> list[str]:
    """Copy `weights` into `module`; return one message per thing worth knowing.

    A head (names beginning with `head`) of another size or kind is left as it is, with a message; any other difference
    is an error.

    Args:
        keep_head: the head must fit too (large-margin fine-tuning).
        keep_head_rows: shrink a larger head to its first so many classes.
        allow_partial: load what fits of the network and report the rest.
        may_lack: beginnings of names that `weights` need not have; they stay as they are.

    Raises:
        ValueError: the network's names or shapes differ (the message lists them), or the head's where it must be kept,
            or there are numbers that are not finite.
    """
    own = module.state_dict()
    if keep_head_rows:
        weights = {n: _first_classes(t, own[n]) if n.startswith(head) and n in own else t for n, t in weights.items()}
    fits = {n: t for n, t in weights.items() if n in own and t.shape == own[n].shape}
    problems = [f"{n} is missing" for n in own if n not in weights and not (may_lack and n.startswith(may_lack))]
    problems += [f"{n} is not part of this network" for n in weights if n not in own]
    problems += [
        f"{n} is {tuple(t.shape)} there and {tuple(own[n].shape)} here"
        for n, t in weights.items()
        if n in own and n not in fits
    ]
    head_problems = [p for p in problems if p.startswith(head)]
    network_problems = [p for p in problems if not p.startswith(head)]
    if network_problems and not (allow_partial and any(not n.startswith(head) for n in fits)):
        raise ValueError(f"{path} does not fit this network: {_some(network_problems)}; check --model and its options")
    if head_problems and (keep_head or keep_head_rows):
        raise ValueError(f"{path}: the head must fit to be kept: {_some(head_problems)}")
    broken = [n for n, t in fits.items() if own[n].isfinite().all() and not t.isfinite().all()]
    if broken:
        raise ValueError(f"{path}: holds numbers that are not finite, in {_some(broken)}; take an earlier checkpoint")
    module.load_state_dict(fits, strict=False)
    messages = [f"loaded {len(fits)} of {len(own)} entries from {path}"]
    if head_problems:
        messages.append(f"head not taken over: {_some(head_problems)}")
    if network_problems:
        messages.append(
            f"--allow_partial: {len(network_problems)} network entries not loaded: {_some(network_problems)}"
        )
    return messages


def _first_classes(tensor, own):
    differing = [d for d in range(tensor.dim()) if tensor.dim() == own.dim() and tensor.shape[d] > own.shape[d]]
    return tensor.narrow(differing[0], 0, own.shape[differing[0]]) if len(differing) == 1 else tensor


def _some(items, most=5):
    return "; ".join(items[:most]) + (f"; and {len(items) - most} more" if len(items) > most else "")


def save_run(state: State, folder: str | Path, also: tuple[str, ...] = ()):
    """Write the run's state to `folder`/checkpoints/ under the names in `also` and, linked or copied, as last.pt.

    Last in this order: were the run killed in between, it would go on from before and write all of them again.
    Every rank must call it. An error of rank 0 (a full disk) is raised on all ranks.
    """
    training = state.training_state()
    error = None
    if distributed.is_main():
        first, *others = (Path(folder) / "checkpoints" / name for name in (*also, LAST))
        payload = {**state.card, "state_dict": state.module.state_dict(), "training": training}
        try:
            write(first, payload)
            for other in others:
                link_or_copy(first, other)
        except OSError as problem:
            error = problem
    distributed.stop_if_any_failed(error)


def link_or_copy(source: Path, target: Path):
    """Make `target` the same file as `source`, atomically: a hard link where the file system has them, else a copy."""
    import shutil

    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)


def remove_unfinished(folder: str | Path):
    """Delete what a run killed while saving has left of a run folder's checkpoints: half-written temporary files."""
    for path in (Path(folder) / "checkpoints").glob(".*.part"):
        path.unlink(missing_ok=True)


def prune(folder: str | Path, keep: int):
    """Delete all but the newest `keep` checkpoints named step_N.pt of a run folder."""
    found = sorted((Path(folder) / "checkpoints").glob("step_*.pt"), key=lambda p: int(re.sub(r"\D", "", p.stem) or 0))
    for path in found[: max(0, len(found) - keep)]:
        path.unlink(missing_ok=True)


def chosen(folder: str | Path) -> Path:
    """Return the checkpoint of a run folder to evaluate: best.pt, else last.pt.

    Raises:
        FileNotFoundError: there is neither.
    """
    for name in (BEST, LAST):
        path = Path(folder) / "checkpoints" / name
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds no checkpoint: give --initial_model")


def newest(folder: str | Path) -> tuple[Path, dict] | None:
    """Return the newest readable checkpoint of a run folder with what it holds, or None where there is none.

    A damaged one (from a machine that died) is passed over for the one before it.

    Raises:
        ValueError: there are checkpoints but none can be read.
    """
    found = [p for p in (Path(folder) / "checkpoints").glob("*.pt") if p.name != BEST]
    problems = []
    for path in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name == LAST), reverse=True):
        try:
            payload = read(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if isinstance(payload, dict) and payload.get("training"):
            return path, payload
        problems.append(f"{path}: holds no training state")
    if problems:
        raise ValueError(f"nothing to resume from: {_some(problems)}; give another --save_path or remove the folder")
    return None
