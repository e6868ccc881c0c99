"""What a run prints and writes: console lines, result/scores.txt, metrics.jsonl and TensorBoard, on rank 0 only.
Entry points: RunLog(folder) and run_main(main), which turns a user's error into one line.
"""

import errno
import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback
import zipfile
from pathlib import Path

from engine.args import write_args

ROOT = Path(__file__).resolve().parent.parent
# folders of the checkout that hold no code of a run
NOT_CODE = ("exps", "data", "tests")
# of an error line: lists of names with their nearest fit, a file given as a name does not
MOST_CHARACTERS = 1500

# How a scalar is worded in the line of an epoch; others are printed under their own name.
WORDING = {
    "accuracy": "TAcc {:.2f}",
    "train_eer": "TEER {:.2f}",
    "loss": "TLOSS {:.6f}",
    "lr": "LR {:.6f}",
    "veer": "VEER {:.4f}",
    "mindcf": "MinDCF {:.5f}",
    "margin": "margin {:.3f}",
}


def words(scalars: dict[str, float]) -> str:
    """Word scalars as one line, e.g. `TAcc 71.20, TLOSS 1.234567, LR 0.000950`."""
    shown = {k: v for k, v in scalars.items() if k != "choose"}
    return ", ".join(WORDING.get(k, k + " {:.5g}").format(v) for k, v in shown.items())


class RunLog:
    """Write a run's lines and scalars into its folder; every method does nothing where `writes` is false."""

    def __init__(self, folder: str | Path, writes: bool = True, tensorboard: bool = True):
        self.folder, self.writes, self.board, self.advised = Path(folder), writes, None, set()
        if not writes:
            return
        make_folder(self.folder / "result")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder / "tb"))

    def say(self, text: str):
        """Print a line on the console only (a progress bar in use is not torn)."""
        if self.writes:
            from tqdm import tqdm

            tqdm.write(text)
            sys.stdout.flush()

    def advise(self, text: str):
        """Print a piece of advice, each only once a run."""
        if text not in self.advised:
            self.advised.add(text)
            self.say(text)

    def line(self, text: str):
        """Print a line and append it to result/scores.txt."""
        self.say(text)
        if self.writes:
            with open(self.folder / "result" / "scores.txt", "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def scalars(self, step: int, epoch: int, samples: int, values: dict[str, float]):
        """Append scalars to metrics.jsonl and TensorBoard, both over optimiser steps; samples seen stand beside."""
        if not self.writes:
            return
        values = {name: value for name, value in values.items() if name != "choose"}  # a copy of another one
        # JSON has no NaN: a value that is not finite is stored as null.
        plain = {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "epoch": epoch, "samples": samples, **plain}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def sound(self, name: str, wave, rate: int, step: int):
        """Let TensorBoard play a wave, an array (samples,) in [-1, 1] at `rate` Hz."""
        if self.board is not None:
            self.board.add_audio(name, wave[None], step, rate)

    def picture(self, name: str, image, step: int):
        """Show an image (height, width, channels) in TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, image, step, dataformats="HWC")

    def rewind(self, step: int):
        """Take out of metrics.jsonl what a killed run wrote after the checkpoint of `step`, which comes again."""
        path = self.folder / "metrics.jsonl"
        if not self.writes or not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step_of(line) <= step]
        if len(kept) < len(lines):
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            os.replace(temporary, path)

    def record(self, args, notes: dict[str, str]):
        """Write args.yaml (give it back as --config) and a zip of the code as it is now, result/run<date>.zip."""
        if not self.writes:
            return
        write_args(self.folder / "args.yaml", args, notes)
        stamp = time.strftime("%Y%m%d%H%M%S")
        code = [path for pattern in ("*.py", "*/*.py", "*/*/*.py") for path in ROOT.glob(pattern)]
        with zipfile.ZipFile(self.folder / "result" / f"run{stamp}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(code):
                name = path.relative_to(ROOT)
                if not name.parts[0].startswith(".") and name.parts[0] not in NOT_CODE:
                    archive.write(path, name)

    def close(self):
        """Flush TensorBoard."""
        if self.board is not None:
            self.board.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # the last line of a run that was killed while writing it


def make_folder(path: str | Path):
    """Make a folder to write into, with those above it.

    Raises:
        OSError: a file is in the way, or it may not be written there.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write")
    except OSError as error:
        raise OSError(f"{path}: cannot be made ({error.strerror}); choose another --save_path") from None


def versions() -> dict[str, str]:
    """Return what a result depends on: git revision and versions of Python, torch and numpy."""
    import numpy
    import torch

    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        revision = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = ""
    return {
        "revision": revision or "unknown",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def run_main(main):
    """Run a script's main(); a user's error becomes one line `error: ...` and exit code 2, anything else a traceback.

    Set VOXLAB_TRACEBACK=1 to see where a user's error was raised.
    """
    try:
        code = main()
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        code = 130
        release_frames(error)
    except Exception as error:
        expected = isinstance(error, (ValueError, OSError, RuntimeError))
        if not expected or os.environ.get("VOXLAB_TRACEBACK"):
            traceback.print_exc()
        if expected:
            print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2 if expected else 1
        release_frames(error)
    # a script that has loaded no network needs no torch to end
    module = sys.modules.get("engine.distributed")
    module.leave(code or 0) if module else sys.exit(code or 0)


def release_frames(error: BaseException | None):
    """Drop what the frames of an error hold, a data loader above all.

    Its processes ignore SIGTERM, which is meant for the trainer; held by a frame to the end, they would be waited for
    for ever.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def one_line(error: BaseException) -> str:
    """Return an exception's message as one line; of an error of a loader process, the line that was raised there.

    A very long one loses its middle, and characters that would steer the terminal become question marks.
    """
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1] if lines[0].startswith("Caught ") else " ".join(line.strip() for line in lines)
    if "Bus error" in text or "shared memory" in text:
        text += " (give the container more with --shm-size, or lower --nDataLoaderThread)"
    if text.startswith("DataLoader worker"):
        text += " (a loader process was killed, often for want of memory: lower --nDataLoaderThread)"
    for name in ("ValueError: ", "RuntimeError: ", "FileNotFoundError: ", "OSError: "):
        text = text.removeprefix(name)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 300]} ... {text[-300:]}"
