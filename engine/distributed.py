"""Processes and devices: the only module that reads RANK, LOCAL_RANK and WORLD_SIZE.
Entry point: launch(worker, args) runs worker(args) once, or once per rank; one rank of one is the ordinary case.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import uuid
from datetime import timedelta

import torch
import torch.distributed as dist
from tqdm import tqdm

from engine.args import add_bool
from engine.heartbeat import Heartbeat

# A rank that waits this long for a living one gives up; reading the longest evaluation list takes less. One that has
# died is noticed by its heartbeat.
TIMEOUT = timedelta(minutes=30)
# So long (seconds) may ranks take to end by themselves after another has died; those that hang are then killed.
GRACE = 15

# the heartbeat of a process that has been in a process group, see leave()
_heartbeat: Heartbeat | None = None


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
    group.add_argument(
        "--silence_seconds",
        type=float,
        default=40,
        help="several processes: end the run when one has given no sign of life for so long",
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
        return _run_rank(worker, args)
    if not args.distributed:
        return worker(args)
    wants_cpu = args.device.startswith("cpu") or not torch.cuda.is_available()
    processes = args.nproc or (2 if wants_cpu else torch.cuda.device_count())
    if not wants_cpu and processes > torch.cuda.device_count():
        raise ValueError(
            f"--nproc {processes}: only {torch.cuda.device_count()} GPUs are visible (CUDA_VISIBLE_DEVICES chooses)"
        )
    return _spawn(worker, args, processes)


def _spawn(worker, args, processes):
    """Run the ranks as processes of this one, hand signals on to them and return their exit code."""
    # The store lies in this process: it outlives every rank.
    store = dist.TCPStore("127.0.0.1", _free_port(args.port), is_master=True, wait_for_workers=False)
    given = (worker, args, processes, store.port)
    context = torch.multiprocessing.spawn(_spawned, given, nprocs=processes, join=False)

    def hand_on(number, frame):
        for pid in context.pids():
            # a Ctrl-C of the terminal reaches the ranks by itself, and a second one means more than the first
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if number == signal.SIGINT else number)

    before = {n: signal.signal(n, hand_on) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        while not context.join(grace_period=GRACE):
            pass
    except torch.multiprocessing.ProcessExitedException as error:
        if error.exit_code > 0:
            # The rank has printed its own one-line error; the others have ended too.
            return error.exit_code
        if dist.PrefixStore("heartbeat", store).add("told0", 1) == 1:
            print(f"error: rank {error.error_index} was ended by {error.signal_name}", file=sys.stderr)
        return 128 - error.exit_code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _spawned(local_rank, worker, args, processes, port):
    from engine.log import run_main

    os.environ.update(
        RANK=str(local_rank),
        LOCAL_RANK=str(local_rank),
        WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # the store is there already, as under torchrun
    )
    if "OMP_NUM_THREADS" not in os.environ:
        # processes on one CPU share its cores instead of each taking all
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    run_main(lambda: _run_rank(worker, args))


def _run_rank(worker, args):
    """Join the group, run worker(args) and wait for the other ranks; after an error, end them too."""
    # tqdm's own lock is a semaphore of the system, which leave() would leave behind
    tqdm.set_lock(threading.RLock())
    try:
        _initialise(args)
        code = worker(args)
        gather_objects(None)
        return code
    except Exception as error:
        if _heartbeat is None:
            raise
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            # Another rank has left this one alone. The heartbeat finds which and ends this process.
            suspect()
            time.sleep(args.silence_seconds)
        text = " ".join(str(error).split()) or type(error).__name__
        if not _heartbeat.farewell(2, f"rank {rank()} on {socket.gethostname()} stopped: {text}"):
            time.sleep(1)
            leave(2)
        raise


def suspect():
    """Say that another rank has probably died (several processes), so that it is waited for less."""
    if _heartbeat is not None:
        _heartbeat.suspect()


def leave(code: int, at_once: bool = False):
    """End this process with an exit code; one that has been in a process group ends at once.

    Its gloo threads may still hold tensors that Python knows. One that lets go of them while the interpreter is being
    torn down aborts the process (SIGABRT), and the run would count as failed after its last line. So nothing is torn
    down: output is flushed, loader processes are ended, and the process is gone.
    """
    if _heartbeat is None and not at_once:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def leave_all(code: int, text: str):
    """End this process at once and tell the other ranks to end with the same exit code, because of `text`."""
    if _heartbeat is None or _heartbeat.farewell(code, text):
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode())  # in a signal handler print() could meet itself
    leave(code, at_once=True)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return probe.getsockname()[1]
            except OSError:
                continue
    raise OSError(f"no free TCP port (asked for {wanted})")


def _initialise(args):
    global _heartbeat
    store, number, world = next(dist.rendezvous("env://", timeout=TIMEOUT))
    if "TORCHELASTIC_RUN_ID" in os.environ:
        store = _fresh(store, number, world)
    node = os.environ.get("GROUP_RANK", "0")
    _heartbeat = Heartbeat(store, number, world, node, args.silence_seconds, lambda code: leave(code, at_once=True))
    on_cuda = torch.cuda.is_available() and not args.device.startswith("cpu")
    # gloo beside nccl, so that flags and lists travel without touching the GPU's stream
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    if on_cuda:
        torch.cuda.set_device(local_rank())
    dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=TIMEOUT)


def _fresh(store, number, world):
    """Return a part of torchrun's store that no earlier start of the ranks has written to.

    torchrun keeps the store when it starts the ranks again, and addresses and verdicts in it would be of the dead. No
    variable tells one start from the next on all machines. So every rank shows a new name, rank 0 lists the names, all
    say which list they see, and once all see the last one it is agreed on.
    """
    name, end = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    store.set(f"name{number}", name)
    while time.monotonic() < end:
        if number == 0:
            store.set("names", ",".join(store.get(f"name{r}").decode() for r in range(world)))
        names = store.get("names")
        store.set(f"seen{number}", names)
        if number == 0 and all(store.check([f"seen{r}"]) and store.get(f"seen{r}") == names for r in range(world)):
            store.set("agreed", names)
        if store.check(["agreed"]) and name in store.get("agreed").decode():
            return dist.PrefixStore(store.get("agreed").decode().split(",")[0], store)
        time.sleep(0.05)
    raise RuntimeError(f"not all of {world} ranks have started within {TIMEOUT}")


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


def from_main(make):
    """Return on every rank what make() returns on rank 0.

    Raises:
        ValueError: make() failed on rank 0 by a user's error, which is raised there as it is.
    """
    if not is_distributed():
        return make()
    box = [None, None]
    try:
        if is_main():
            box[0] = make()
    except (ValueError, OSError) as error:
        box[1] = str(error)
        raise
    finally:
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise ValueError(box[1])
    return box[0]


def largest(flags: list[int]):
    """Begin to compare small numbers over all ranks (through the CPU group); return a function that waits for the
    largest of each."""
    if not is_distributed():
        return lambda: flags
    values = torch.tensor(flags)
    work = dist.all_reduce(values, op=dist.ReduceOp.MAX, async_op=True)

    def read():
        work.wait()
        return values.tolist()

    return read


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return `values` added up over all ranks, on their own device."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def rows_of_all(rows: torch.Tensor) -> torch.Tensor:
    """Return `rows`, as many on every rank, of all ranks in their order, without gradient."""
    if not is_distributed():
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


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
