"""Runs of a sweep as processes of this machine: so many at once, each under a lock, signals handed on.
Entry point: run_all(folders, command_of, workers, say).
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import result, sweep_folder

# The trainers' exit code after a signal: all is saved, the same command goes on (see docs/cluster.md).
INTERRUPTED = 75
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
POLL_SECONDS = 0.1
LOG_TAIL_BYTES = 2**16


class Job:
    """A run that goes on: a child of this process, or, `process` being None, one that an earlier sweep left behind."""

    def __init__(self, folder: Path, command: Sequence[str], environment: dict):
        self.folder, self.process, self.since = folder, None, time.monotonic()
        descriptor = sweep_folder.take_lock(folder / sweep_folder.LOCK)
        if descriptor is None:
            return
        try:
            if result.read(folder) is not None:
                sweep_folder.set_aside(folder)
            with open(folder / sweep_folder.LOG, "ab") as log:
                # own session: Ctrl-C reaches the sweep alone, which hands it on; the child keeps the lock open
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                    pass_fds=(descriptor,), start_new_session=True,
                )  # fmt: skip
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{socket.gethostname()} {self.process.pid}\n".encode(), 0)
        finally:
            os.close(descriptor)

    def send(self, number: int):
        """Send a signal to the run, also to one that an earlier sweep on this machine started."""
        pid = self.process.pid if self.process else self._pid_of_lock()
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # its children get only what cannot be handled: a trainer stops its own
                (os.killpg if number == signal.SIGKILL else os.kill)(pid, number)

    def _pid_of_lock(self) -> int:
        words = (self.folder / sweep_folder.LOCK).read_text().split()
        return int(words[1]) if len(words) == 2 and words[0] == socket.gethostname() and words[1].isdigit() else 0

    def ended(self) -> bool:
        """Tell whether the run is over."""
        if self.process:
            return self.process.poll() is not None
        descriptor = sweep_folder.take_lock(self.folder / sweep_folder.LOCK)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None


class Signals:
    """Note the signals that ask this process to stop, in the order they came."""

    def __enter__(self):
        self.caught = []
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def _note(self, number, frame):
        self.caught.append(number)

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def run_all(
    folders: Sequence[Path],
    command_of: Callable[[Path], list[str]],
    workers: int,
    say: Callable[[Path, str], None],
) -> bool:
    """Run the runs of `folders`, at most `workers` at once; return whether a signal stopped that.

    A run that is still going from an earlier sweep is waited for and not started again. say(folder, state) is called
    when a run begins ("begun", or "still running") and when it ends (its state, see sweep_folder.state_of).
    """
    waiting, busy = deque(folders), {}
    gpus = visible_gpus() if workers > 1 else []
    with Signals() as signals:
        told = 0
        while waiting or busy:
            if signals.caught:
                waiting.clear()
            for number in signals.caught[told:]:
                told += 1
                again = number == signal.SIGINT and signals.caught[: told - 1].count(signal.SIGINT)
                for job in busy.values():
                    job.send(signal.SIGKILL if again else signal.SIGTERM if number == signal.SIGHUP else number)
            for slot in range(workers):
                if slot not in busy and waiting:
                    folder = waiting.popleft()
                    job = busy[slot] = Job(folder, command_of(folder), environment(slot, workers, gpus))
                    say(folder, "begun" if job.process else "still running, left by an earlier sweep")
            for slot, job in list(busy.items()):
                if job.ended():
                    del busy[slot]
                    if _conclude(job, bool(signals.caught)):
                        say(job.folder, sweep_folder.state_of(job.folder))
                    elif not signals.caught:
                        waiting.appendleft(job.folder)
            if busy:
                time.sleep(POLL_SECONDS)
        return bool(signals.caught)


def _conclude(job: Job, stopped: bool) -> bool:
    """Write the result of a run that failed; return whether there is any need to look at it no more."""
    if result.read(job.folder) is not None:
        return True
    if job.process is None:
        return False  # an earlier sweep's, killed with it or after it: this one goes on with it
    code = job.process.returncode
    if code == INTERRUPTED or (stopped and code != 0):
        return True
    error = last_error(job.folder / sweep_folder.LOG)
    if code < 0:
        hint = " (often for want of memory)" if code == -signal.SIGKILL else ""
        error = f"killed by {signal.Signals(-code).name}{hint}"
    elif code == 0:
        error = f"ended without writing {result.FILE}"
    seconds = round(time.monotonic() - job.since, 1)
    result.write(job.folder, "failed", {}, error, exit_code=code, seconds=seconds)
    return True


def last_error(path: Path) -> str:
    """Return the last line of a log that tells an error, else its last line."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error: |\w*(Error|Exception)\b", line)]
    return (errors or lines or ["no output"])[-1].removeprefix("error: ")[:500]


def environment(slot: int, workers: int, gpus: Sequence[str]) -> dict:
    """Return the environment of a run: one of several at once gets a GPU and its share of the cores."""
    settings = {**os.environ, "PYTHONUNBUFFERED": "1"}
    settings.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    if gpus:
        settings["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return settings


def visible_gpus() -> list[str]:
    """Return the GPUs that runs may use, by CUDA_VISIBLE_DEVICES or else as nvidia-smi lists them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(number) for number, _ in enumerate(re.findall(r"^GPU \d+:", listed, re.MULTILINE))]
