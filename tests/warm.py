"""Runs of scripts forked off one process that has imported everything: milliseconds each instead of seconds.
Entry point: `with warm(tree) as server: run = server.launch(*flags); run.kill(); code, text = server.wait(run)`.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Run:
    """A run of a script in a process of its own: `pid`, and the files that take what it prints."""

    def __init__(self, pid, output, errors):
        self.pid, self.output, self.errors, self.over = pid, output, errors, False

    def text(self):
        """Return what was printed, to standard output and (unless they were parted) to standard error."""
        return self.output.read_text()

    def kill(self, number=signal.SIGKILL):
        if not self.over:
            os.kill(self.pid, number)


class Server:
    """The process that forks runs; see warm()."""

    def __init__(self, process, folder):
        self.process, self.folder, self.count = process, folder, 0

    def _ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def launch(self, *flags, script="trainSpeakerNet.py", code="", parted=False, **environment):
        """Start a script with `flags`, after executing the Python source `code` in its process.

        `parted`: standard error goes to a file of its own.
        """
        self.count += 1
        output = self.folder / f"run{self.count}.txt"
        errors = self.folder / f"errors{self.count}.txt" if parted else output
        output.touch()
        errors.touch()
        job = {"argv": [script, *map(str, flags)], "code": code, "environment": environment}
        return Run(self._ask(**job, output=str(output), errors=str(errors)), output, errors)

    def wait(self, run):
        """Wait for the end of `run`; return its exit code (minus the signal that killed it) and what it printed."""
        code, run.over = self._ask(wait=run.pid), True
        return code, run.text()


@contextlib.contextmanager
def warm(tree):
    """Context with a server for runs in `tree`, which copy_tree() has made."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=tree,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Server(process, Path(folder))
        finally:
            process.stdin.close()
            process.wait()


def until(run, word, seconds=30):
    """Wait until `run` has printed `word`."""
    end = time.monotonic() + seconds
    while word not in run.text():
        assert time.monotonic() < end, f"{word} did not come: {run.text()}"
        time.sleep(0.005)


def serve():
    """Fork a run per line of standard input, or wait for one. This process never computes: threads do not survive."""
    import matplotlib.pyplot  # noqa: F401
    import models.Tiny  # noqa: F401
    import scipy.signal
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch.utils.tensorboard
    from torch.utils.flop_counter import FlopCounterMode

    import trainSpeakerNet  # noqa: F401
    from engine.log import run_main

    with FlopCounterMode(display=False):
        torch.zeros(1)  # its first use imports a second's worth
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        for stream, kind in ((1, "output"), (2, "errors")):
            os.dup2(os.open(job[kind], os.O_WRONLY | os.O_APPEND), stream)
        # a suite started in the background of a script inherits a Ctrl-C that is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(job["environment"])
        sys.argv = job["argv"]
        exec(job["code"], {})
        run_main(importlib.import_module(Path(job["argv"][0]).stem).main)


if __name__ == "__main__":
    serve()
