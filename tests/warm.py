"""Training runs forked off one process that has imported everything: milliseconds each instead of seconds.
Entry point: `with warm(tree) as server: run = server.launch(*flags); run.kill(); code, text = server.wait(run)`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Run:
    """A run of trainSpeakerNet.py in a process of its own: `pid`, and the file that takes what it prints."""

    def __init__(self, pid, output):
        self.pid, self.output, self.over = pid, output, False

    def text(self):
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

    def launch(self, *flags, code="", **environment):
        """Start trainSpeakerNet.py with `flags`, after executing the Python source `code` in its process."""
        self.count += 1
        output = self.folder / f"run{self.count}.txt"
        output.touch()
        job = {"argv": [str(f) for f in flags], "code": code, "environment": environment, "output": str(output)}
        return Run(self._ask(**job), output)

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
    import models.Tiny  # noqa: F401
    import scipy.signal  # noqa: F401
    import torch.utils.tensorboard
    from torch.utils.flop_counter import FlopCounterMode

    import trainSpeakerNet
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
        handle = os.open(job["output"], os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(handle, stream)
        # a suite started in the background of a script inherits a Ctrl-C that is ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(job["environment"])
        sys.argv = ["trainSpeakerNet.py", *job["argv"]]
        exec(job["code"], {})
        run_main(trainSpeakerNet.main)


if __name__ == "__main__":
    serve()
