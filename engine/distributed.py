"""Processes and devices: the only module that reads RANK, LOCAL_RANK and WORLD_SIZE.
Entry point: launch(worker, args) runs worker(args) once, or once per rank; one rank of one is the ordinary case.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from engine.args import add_bool

# A rank that waits this long for another gives up; reading the longest evaluation list takes less.
TIMEOUT = timedelta(minutes=30)

# whether this process has been in a process group, see leave()
_in_group = False


def add_arguments(parser):
    """Add the flags that say where a script runs."""
    group = parser.add_argument_group("device and processes")
    group.add_argument("--device", default="", help="cuda, cuda:1 or cpu (default: cuda where available, else cpu)")
    group.add_argument("--gpu_id", type=int, default=0, help="device number of a run that is not distributed")
    add_bool(
        group, "--distributed", help="one process per visible GPU, or --nproc processes on CPU (torchrun needs no flag)"
    )
    group.add_argument(
        "--nproc", type=int, default=0, help="processes of --distributed (default: visible GPUs, on CPU 2)"
    )
    group.add_argument(
        "--port",
        type=int,
        default=8888,
        help="TCP port of --distributed on this machine; a free one is taken where it is in use",
    )
    add_bool(
        group,
        "--mixedprec",
        help="train in mixed precision (evaluation is float32): bfloat16, else float16 with a scaler",
    )


def under_torchrun() -> bool:
    """Tell whether torchrun (or anything that sets its variables) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(worker, args):
    """Run worker(args) in this process, under torchrun's environment, or in spawned processes with --distributed."""
    if under_torchrun():
        _initialise(args, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), "env://")
        return _until_all_are_done(worker, args)
    if not args.distributed:
        return worker(args)
    wants_cpu = args.device.startswith("cpu") or not torch.cuda.is_available()
    processes = args.nproc or (2 if wants_cpu else torch.cuda.device_count())
    if not wants_cpu and processes > torch.cuda.device_count():
        raise ValueError(
            f"--nproc {processes}: only {torch.cuda.device_count()} GPUs are visible (CUDA_VISIBLE_DEVICES chooses)"
        )
    address = f"tcp://127.0.0.1:{_free_port(args.port)}"
    try:
        torch.multiprocessing.spawn(_spawned, args=(worker, args, processes, address), nprocs=processes, join=True)
    except torch.multiprocessing.ProcessExitedException as error:
        # The rank has printed its own one-line error; the others were ended by spawn.
        raise SystemExit(error.exit_code if error.exit_code > 0 else 1) from None


def _until_all_are_done(worker, args):
    """Run worker(args) and wait for the other ranks; after an error, do not."""
    code = worker(args)
    gather_objects(None)
    return code


def leave(code: int):
    """End this process with an exit code; one that has been in a process group ends at once.

    Its gloo threads may still hold tensors that Python knows. One that lets go of them while the interpreter is being
    torn down aborts the process (SIGABRT), and the run would count as failed after its last line. So nothing is torn
    down: output is flushed, loader processes are ended, and the process is gone.
    """
    if not _in_group:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def _spawned(local_rank, worker, args, processes, address):
    from engine.log import run_main

    os.environ["LOCAL_RANK"] = str(local_rank)

    def body():
        _initialise(args, local_rank, processes, address)
        return _until_all_are_done(worker, args)

    if "OMP_NUM_THREADS" not in os.environ:
        # processes on one CPU share its cores instead of each taking all
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    run_main(body)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise OSError(f"no free TCP port (asked for {wanted})")


def _initialise(args, rank, world, address):
    global _in_group
    _in_group = True
    on_cuda = torch.cuda.is_available() and not args.device.startswith("cpu")
    # gloo beside nccl, so that flags and lists travel without touching the GPU's stream
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    if on_cuda:
        torch.cuda.set_device(local_rank())
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=world, timeout=TIMEOUT)


def device_of(args) -> torch.device:
    """Return this process's device.

    Raises:
        ValueError: --device names one that is not there.
    """
    wanted = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {wanted}: this torch ({torch.__version__}) sees no GPU; use --device cpu")
    if wanted == "cuda":
        wanted = f"cuda:{local_rank() if is_distributed() else args.gpu_id}"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ValueError(f"--device {wanted}: write cpu, cuda or cuda:N") from None
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise ValueError(f"--device {wanted}: only {torch.cuda.device_count()} GPUs are visible")
    return device


def is_distributed() -> bool:
    """Tell whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's global rank, 0 where there is only one."""
    return dist.get_rank() if is_distributed() else 0


def local_rank() -> int:
    """Return this process's rank on its machine, which chooses its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def is_main() -> bool:
    """Tell whether this is rank 0, the only one that writes."""
    return rank() == 0


def gather_objects(item) -> list:
    """Return the picklable `item` of every rank, in rank order, on every rank."""
    if not is_distributed():
        return [item]
    items = [None] * world_size()
    dist.all_gather_object(items, item)
    return items


def any_rank(flag: int) -> int:
    """Return the largest `flag` of all ranks (through the CPU group)."""
    if not is_distributed():
        return flag
    value = torch.tensor([flag])
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return `values` added up over all ranks, on their own device."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def wrap(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return the module to call in training: in DistributedDataParallel where there are several ranks."""
    if not is_distributed() or not any(p.requires_grad for p in module.parameters()):
        return module
    return torch.nn.parallel.DistributedDataParallel(
        module, device_ids=[device.index] if device.type == "cuda" else None
    )


def stop_if_any_failed(error: BaseException | None):
    """Raise on every rank when any has an error, so that none waits for one that has left."""
    messages = [m for m in gather_objects(None if error is None else str(error)) if m]
    if error is not None:
        raise error
    if messages:
        raise ValueError(messages[0])
