"""Signals that ask a run to stop: caught, compared between ranks, acted on between two steps.
Entry point: `with Interruption() as interruption: ... interruption.compare(due)`.
"""

import contextlib
import signal
import time

from engine import distributed

# Exit code after a signal: the state is saved and the same command goes on (EX_TEMPFAIL of sysexits.h).
INTERRUPTED = 75


class Interruption:
    """Turn SIGTERM, SIGUSR1 and Ctrl-C into a flag that the loop reads between steps; a second Ctrl-C ends at once.

    While `saved` is true there is nothing to lose, and a signal ends all ranks at once with the code INTERRUPTED.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, saved: bool = False):
        self.caught, self.first_ctrl_c, self.saved, self.pending = 0, None, saved, None

    def __enter__(self):
        self.before = {}
        for number in self.SIGNALS:
            with contextlib.suppress(ValueError):  # not in the main thread: the caller handles signals
                self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        if number == signal.SIGINT:
            # one key press may arrive twice, from the terminal and from a parent process that ends by it
            if self.first_ctrl_c is not None and time.monotonic() - self.first_ctrl_c > 1:
                raise KeyboardInterrupt
            self.first_ctrl_c = self.first_ctrl_c or time.monotonic()
        self.caught = number
        if self.saved:
            name = signal.Signals(number).name
            distributed.leave_all(INTERRUPTED, f"{name}: all is saved; the same command goes on from there")
        if number == signal.SIGTERM:
            # what torchrun and --distributed send to the ranks that one which died has left behind
            distributed.suspect()

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def all_saved(self):
        """Context in which the state is stored and does not change, such as an evaluation."""
        self.saved = True
        if self.caught:
            self._note(self.caught, None)
        try:
            yield
        finally:
            self.saved = False

    def compare(self, due: bool = False) -> tuple[int, bool]:
        """Return the signal that any rank had caught (else 0) and whether on any rank a save was due.

        Several ranks hear at one step of what was the case at the step before, so that none waits for another: the
        comparison travels during the step. All ranks hear the same at the same step.
        """
        mine = [int(self.caught), int(due)]
        if not distributed.is_distributed():
            return self.caught, due
        heard = self.pending() if self.pending is not None else [0, 0]
        self.pending = None if any(heard) else distributed.largest(mine)
        return heard[0], bool(heard[1])

    def compare_now(self) -> int:
        """Return the signal that any rank has caught until now, else 0; ranks wait for each other."""
        if self.pending is not None:
            self.pending()
            self.pending = None
        return distributed.largest([int(self.caught)])()[0]
