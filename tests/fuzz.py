"""Files damaged at random and given to a reader, with limits of time and memory.
Entry points: fuzz(call, path, data, cases), outcome(call, path) and mutated(data, draw).
"""

import contextlib
import faulthandler
import resource
import signal
import struct
import sys

import numpy as np

from engine.log import one_line

SECONDS = 20  # of computing; a case takes milliseconds
EXTRA_BYTES = 2 * 2**30  # address space a case may take; its files have kilobytes
NUMBERS = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TOKENS = (b"0", b"1", b"nan", b"-inf", b"1e999", b"\xef\xbb\xbf", b"\x00", b"\r", b"\xe2\x80\xa8", b"'", b'"', b"../x",
          b"\t", b"\xff", b"- ", b": ", b"&a ", b"*a", b"!!int x", b"{", b"[", b"9" * 5000, b"a" * 3000)  # fmt: skip


class Hang(BaseException):
    """A case took too long; no reader catches it."""


def stop(*_):
    raise Hang


@contextlib.contextmanager
def limits():
    """Give a case SECONDS and EXTRA_BYTES; code that Python cannot interrupt ends the process, with a traceback."""
    pages = int(open("/proc/self/statm").read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGPROF, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + EXTRA_BYTES, hard))
    faulthandler.dump_traceback_later(15 * SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def outcome(call, path) -> str:
    """Return "" where call(path) succeeds, else its message, which must be one line of a user's error naming `path`."""
    try:
        with limits():
            call(path)
        return ""
    except (ValueError, OSError) as error:
        line = one_line(error)
        assert path.name in line and len(line.splitlines()) == 1 and len(line) < 1600, repr(error)[:2000]
        return line


def mutated(data: bytes, draw: np.random.Generator) -> bytes:
    """Return `data` with one to four random damages."""
    for _ in range(draw.integers(1, 5)):
        size = len(data)
        a, b = sorted(int(i) for i in draw.integers(0, size + 1, 2))
        b = min(b, a + int(draw.integers(1, 40)))
        kind = draw.integers(9)
        if kind == 0 and size:  # flipped bits
            i = int(draw.integers(size))
            data = data[:i] + bytes([data[i] ^ (1 << int(draw.integers(8)))]) + data[i + 1 :]
        elif kind == 1 and size:  # truncated
            data = data[: int(draw.integers(size))]
        elif kind == 2:  # deleted
            data = data[:a] + data[b:]
        elif kind == 3:  # doubled
            data = data[:b] + data[a:]
        elif kind == 4:  # a token too much
            data = data[:a] + TOKENS[draw.integers(len(TOKENS))] + data[a:]
        elif kind == 5:  # a token instead
            data = data[:a] + TOKENS[draw.integers(len(TOKENS))] + data[b:]
        elif kind == 6:  # a number of a binary header
            packed = struct.pack("<I>I"[2 * int(draw.integers(2)) :][:2], NUMBERS[draw.integers(len(NUMBERS))])
            data = data[:a] + packed + data[a + 4 :]
        elif kind == 7:  # two words swapped
            words = data.split(b" ")
            i, j = draw.integers(len(words), size=2)
            words[i], words[j] = words[j], words[i]
            data = b" ".join(words)
        else:  # random bytes
            data = data[:a] + draw.bytes(int(draw.integers(1, 30))) + data[a:]
    return data


def fuzz(call, path, data, cases, seed=0):
    """Run `call` on mutations of `data` written to `path`; both success and errors must have occurred."""
    draw = np.random.default_rng(seed)
    failed = 0
    for case in range(cases):
        path.write_bytes(mutated(data, draw))
        try:
            failed += outcome(call, path) != ""
        except BaseException:
            print(f"case {case}: {path.read_bytes()[:300]!r}")
            raise
    assert 0 < failed
    path.write_bytes(data)
    assert outcome(call, path) == ""
