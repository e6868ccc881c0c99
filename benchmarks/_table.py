"""What the benchmarks share: the machine in words, medians, tables."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def machine(device: str = "cpu") -> str:
    """Return one line: processor or GPU, cores, versions."""
    import numpy
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0] if models else name
    if device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name(device)} beside {name}"
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}"
    return f"{name}, {cores} core(s), {versions}, {time.strftime('%Y-%m-%d')}"


def seconds_of(work, repeats: int, clock=time.perf_counter) -> tuple[float, float, float]:
    """Call work() once, then `repeats` times on the clock; return median, fastest and slowest seconds."""
    work()
    found = []
    for _ in range(repeats):
        started = clock()
        work()
        found.append(clock() - started)
    return statistics.median(found), min(found), max(found)


def peak_megabytes() -> float:
    """Return the peak resident memory of this process in MB (10^6 bytes)."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's memory before this program was loaded
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def in_new_process(arguments: list[str], threads: int = 1) -> dict:
    """Run Python with `arguments` in a process of its own and return the JSON it prints last."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)[:100]}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def table(head: list[str], rows: list[list]) -> str:
    """Return a Markdown table with columns of equal width."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
