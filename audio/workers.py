"""Loader processes: how they are started, and what is raised when one dies.
Entry points: default_workers, worker_settings (the arguments of a DataLoader), watched.
"""

import contextlib
import multiprocessing
import os
import sys
import time

import torch
from torch.utils.data import DataLoader


def worker_settings(count: int, keep: bool = True) -> dict:
    """Return the arguments of a DataLoader with `count` loader processes, which live on after an epoch with `keep`."""
    settings = {"num_workers": count, "pin_memory": torch.cuda.is_available(), "worker_init_fn": _start_worker}
    if count:
        settings.update(persistent_workers=keep, prefetch_factor=4)
        if sys.platform == "linux":
            # forked, loader processes share the lists and banks of the trainer instead of getting copies
            settings["multiprocessing_context"] = "fork"
    return settings


def _start_worker(_):
    import gc
    import signal

    # what the process was born with is never collected: looking at it would copy the pages shared with the trainer
    gc.freeze()

    # A worker leaves signals to the process that trains, and never computes on more than its own core.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def default_workers() -> int:
    """Return the loader processes per process: 5 as in the original trainer, but no more than there are cores."""
    return min(5, max(1, len(os.sched_getaffinity(0))))


def watched(loader: DataLoader):
    """Yield the batches of a loader; whatever is raised because a process of it died becomes one RuntimeError."""
    source = iter(loader)
    workers = multiprocessing.active_children()
    while True:
        try:
            batch = next(source, None)
        except Exception as error:
            for _ in range(100 if isinstance(error, (OSError, EOFError)) else 0):
                with contextlib.suppress(RuntimeError):  # a broken connection is seen before the death behind it
                    time.sleep(0.02)
                    if not all(worker.is_alive() for worker in workers):
                        break
            dead = [str(worker.pid) for worker in workers if not worker.is_alive()]
            if dead:
                raise RuntimeError(f"DataLoader worker (pid {', '.join(dead)}) was killed") from None
            raise
        if batch is None:
            return
        yield batch
