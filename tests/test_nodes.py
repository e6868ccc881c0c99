"""Two machines as two network namespaces joined by a cable: torchrun trains over both, and bears what may break."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tree import copy_tree, train_flags

from engine import checkpoint


def ip(words):
    return subprocess.run(["ip", *words.split()], capture_output=True, text=True)


@pytest.fixture
def nodes():
    """Return the names of two network namespaces; each has an end `eth` of the cable, 10.99.0.1 and 10.99.0.2."""
    if not shutil.which("ip"):
        pytest.skip("needs the command ip of iproute2")
    names = [f"voxlab{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            made = ip(f"netns add {name}")
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        cable = ip(f"link add eth netns {names[0]} type veth peer name eth netns {names[1]}")
        if cable.returncode:
            pytest.skip(f"virtual cables cannot be made here: {cable.stderr.strip()}")
        for number, name in enumerate(names, 1):
            for command in (f"addr add 10.99.0.{number}/24 dev eth", "link set eth up", "link set lo up"):
                assert ip(f"-n {name} {command}").returncode == 0
        yield names
    finally:
        for name in names:
            ip(f"netns del {name}")


def torchrun(tree, node, number, flags, output, *options):
    """Start torchrun on a node with one rank, as docs/cluster.md has it."""
    command = [
        *("ip", "netns", "exec", node, sys.executable, "-m", "torch.distributed.run"),
        *(
            "--nnodes",
            "2",
            "--node-rank",
            str(number),
            "--nproc-per-node",
            "1",
            "--local-addr",
            f"10.99.0.{number + 1}",
        ),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "10.99.0.1:29400", "--rdzv-id", "test"),
        *("--rdzv-conf", f"is_host={int(number == 0)}", *options),
        *("trainSpeakerNet.py", *map(str, flags)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth"}
    return subprocess.Popen(command, cwd=tree, env=environment, stdout=output.open("w"), stderr=subprocess.STDOUT)


def children(pid):
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def steps(folder):
    with contextlib.suppress(FileNotFoundError, ValueError):
        return checkpoint.read(folder / "checkpoints" / "last.pt")["training"]["counters"]["step"]
    return 0


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_nodes_train_restart_after_a_kill_and_end_when_the_cable_is_cut(nodes, tiny_corpus, tmp_path):
    tree, run = copy_tree(tmp_path / "tree"), tmp_path / "run"
    flags = train_flags(
        tiny_corpus, run, batch_size=4, max_epoch=10000, test_interval=10000, save_steps=2, silence_seconds=8, lr=1e-4
    )
    outputs = [tmp_path / "a.txt", tmp_path / "b.txt"]
    agents = [
        torchrun(tree, node, number, flags, output, "--max-restarts", "1")
        for number, (node, output) in enumerate(zip(nodes, outputs))
    ]
    try:
        until(lambda: steps(run) > 4)
        text = "".join(output.read_text() for output in outputs)
        assert "global batch: 8 speakers" in text and "on 2 process(es)" in text
        # a rank dies: torchrun starts both again, and they go on
        [rank] = children(agents[1].pid)
        os.kill(rank, signal.SIGKILL)
        until(lambda: "resumed from" in "".join(output.read_text() for output in outputs))
        reached = steps(run)
        assert reached > 4
        until(lambda: steps(run) > reached)
        # the machines lose each other, and no connection is closed: each ends its rank by itself
        assert ip(f"-n {nodes[1]} link set eth down").returncode == 0
        until(lambda: all("error: rank 1" in output.read_text() for output in outputs), 30)
        assert "rank 1 on" in outputs[0].read_text() and "lost contact" in outputs[1].read_text()
    finally:
        for agent in agents:
            for rank in children(agent.pid):
                os.kill(rank, signal.SIGKILL)
            agent.kill()  # torchrun itself would wait for the other machine to come back
            agent.wait()
