"""Ranks that watch each other: one that died, or whose machine is gone, ends the whole run with one clear line.
Entry point: Heartbeat(store, ...), made by engine/distributed.py when a process joins a group.

A collective cannot tell a slow rank from a dead one, and waits half an hour. So every rank counts up a beat in the
job's TCPStore. Rank 0 looks at all beats, the others at that of rank 0; who finds one standing still writes a verdict,
and all obey the first verdict.
"""

import json
import socket
import sys
import threading
import time

import torch.distributed as dist

# Rounds without a beat until a rank counts as dead, and when something else already says that one has died.
ROUNDS, FEW_ROUNDS = 40, 10


class Heartbeat:
    """Two threads of this rank: one talks to the store, one notices when that does not answer.

    Args:
        store: the store of the job; a connection of its own is made.
        node: number of this machine; each machine prints the verdict once.
        limit: seconds of silence until a rank counts as dead.
        leave: leave(code) ends this process whatever its main thread does.
    """

    def __init__(self, store, rank: int, world_size: int, node: str, limit: float, leave):
        self.store = dist.PrefixStore("heartbeat", store).clone()
        self.rank, self.world_size, self.node = rank, world_size, node
        self.limit, self.pause, self.leave = limit, limit / ROUNDS, leave
        self.rounds, self.suspicious, self.words = 0, False, None
        self.tells, self.answered = False, threading.Event()
        for body in (self._talk, self._watch_store):
            threading.Thread(target=body, daemon=True, name=f"heartbeat {body.__name__}").start()

    def suspect(self):
        """Say that some rank has probably died, so that a quarter of the limit is patience enough."""
        self.suspicious = True

    def farewell(self, code: int, text: str) -> bool:
        """Tell all ranks to end with `code` because of `text`; return whether this rank is the one that prints it."""
        self.words = json.dumps([code, text, self.rank])
        return self.answered.wait(3) and self.tells

    def _talk(self):
        misses, counts = {}, {}
        watched = range(1, self.world_size) if self.rank == 0 else (0,)
        try:
            self.store.set(f"host{self.rank}", socket.gethostname())
            while not self.answered.is_set():
                self.store.add(f"beat{self.rank}", 1)
                hurry = self.store.add("suspicion", int(self.suspicious)) > 0
                for other in watched:
                    count = self.store.add(f"beat{other}", 0)
                    # silence is counted in own rounds, so that a pause of this process is not taken for one of others;
                    # a rank that has not begun is not judged
                    misses[other] = misses.get(other, 0) + 1 if count and count == counts.get(other) else 0
                    counts[other] = count
                    if misses[other] >= (FEW_ROUNDS if hurry else ROUNDS):
                        self._judge(self._obituary(other))
                if self.words is not None:
                    self._judge(self.words)
                elif self.store.check(["verdict"]):
                    self._obey(self.store.get("verdict").decode())
                self.rounds += 1
                time.sleep(self.pause)
        except RuntimeError:
            return  # the other thread finds that the rounds have ended

    def _obituary(self, other):
        host = self.store.get(f"host{other}").decode()
        text = f"rank {other} on {host} is gone: killed, out of memory, or its machine is off or cut off"
        return json.dumps([2, text, self.rank])

    def _judge(self, words):
        """Write a verdict where there is none; let the main thread go on if it is the one that gave it."""
        ticket = self.store.add(f"told{self.node}", 1) == 1
        verdict = self.store.compare_set("verdict", "", words).decode()
        if verdict == self.words:
            self.tells = ticket
            self.answered.set()
        else:
            self._obey(verdict, ticket)

    def _obey(self, verdict, ticket=False):
        code, text, _ = json.loads(verdict)
        self._end(code, text, ticket or self.store.add(f"told{self.node}", 1) == 1)

    def _end(self, code, text, tells):
        if tells:
            print(f"error: {text}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        else:
            time.sleep(1)  # whoever starts the ranks may end all when the first one leaves: not before the line is out
        self.leave(code)

    def _watch_store(self):
        seen, misses = -1, 0
        while not self.answered.is_set():
            time.sleep(self.pause)
            misses = misses + 1 if self.rounds == seen else 0
            seen = self.rounds
            if misses >= (FEW_ROUNDS if self.suspicious else ROUNDS):
                self._end(2, f"rank {self.rank} has lost contact with the machine or process of rank 0", True)
