"""Signals that ask a run to stop: caught, compared between ranks, acted on between two steps.
Entry point: `with Interruption() as interruption: ... interruption.reached(step)`.
"""

import contextlib
import signal

from engine import distributed

# Exit code after a signal: the state is saved and the same command goes on (EX_TEMPFAIL of sysexits.h).
INTERRUPTED = 75


class Interruption:
    """Turn SIGTERM, SIGUSR1 and Ctrl-C into a flag that the loop reads between steps; a second Ctrl-C ends at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __enter__(self):
        self.caught = 0
        self.before = {}
        for number in self.SIGNALS:
            with contextlib.suppress(ValueError):  # not in the main thread: the caller handles signals
                self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        if self.caught == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = number

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> int:
        """Return the signal that any rank caught, else 0; several ranks compare notes every tenth step only."""
        if distributed.is_distributed():
            return distributed.any_rank(self.caught) if step % 10 == 0 else 0
        return self.caught
