"""Long jobs with a progress bar: one that reports bytes, and many spread over processes.
Entry points: follow, in_parallel.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from tqdm import tqdm

from corpora.disk import Progress


def follow(progress: Progress, name: str):
    """Run a job that reports bytes to its end, with a bar; return what it returns."""
    doing = None
    with tqdm(unit="B", unit_scale=True, disable=None) as bar:
        while True:
            try:
                activity, done, total = next(progress)
            except StopIteration as end:
                return end.value
            if activity != doing:
                bar.reset(total)
                bar.set_description(f"{name}: {activity}")
                doing = activity
            bar.update(done - bar.n)


def in_parallel(function: Callable, jobs: Sequence, workers: int, title: str, unit: str) -> Iterator:
    """Yield function(job) of all jobs, in their order, from `workers` processes (0: one per core), with a bar.

    Interrupted, or where a job fails, the others are ended at once: they must write files whole or not at all.
    """
    with ProcessPoolExecutor(workers or None) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            for future in tqdm(futures, title, unit=unit, disable=None):
                yield future.result()
        except BaseException:
            # What is handed over already could not be called back and would be waited for.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
