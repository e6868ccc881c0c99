"""A million names in one buffer instead of a million Python objects, so that loader processes share them.
Entry points: Names, Lookup, and fields(data), which cuts a text of lines into its words.
"""

import numpy as np

# Names are hashed in blocks of this many, which bounds the memory of the intermediate products.
BLOCK = 65536
MULTIPLIER = 0x9E3779B97F4A7C15
_SPACE = np.zeros(256, dtype=bool)
_SPACE[[9, 10, 11, 12, 13, 32]] = True


class Names:
    """Strings as parts of one UTF-8 buffer: name i is buffer[starts[i] : ends[i]]. Behaves like a list of str."""

    def __init__(self, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray):
        self.buffer, self.starts, self.ends = buffer, starts, ends

    @classmethod
    def of(cls, names: list[str]) -> "Names":
        """Return the names of a list of strings."""
        parts = [name.encode() for name in names]
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends - np.array([len(p) for p in parts], np.int64), ends)

    @classmethod
    def joined(cls, several: list["Names"]) -> "Names":
        """Return the names of all, one after the other."""
        shifts = np.cumsum([0] + [len(names.buffer) for names in several])
        bounds = [
            np.concatenate([getattr(names, side) + shift for names, shift in zip(several, shifts)])
            for side in ("starts", "ends")
        ]
        return cls(np.concatenate([names.buffer for names in several]), *bounds)

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index: int) -> str:
        return self.buffer[self.starts[index] : self.ends[index]].tobytes().decode()

    def ranks(self) -> tuple[np.ndarray, list[str]]:
        """Return the place of every name among the sorted distinct ones, (names,) int64, and these."""
        data, found = self.buffer.tobytes(), {}
        bounds = zip(self.starts.tolist(), self.ends.tolist())
        first_seen = np.fromiter((found.setdefault(data[a:b], len(found)) for a, b in bounds), np.int64, len(self))
        distinct = list(found)
        order = sorted(range(len(distinct)), key=distinct.__getitem__)  # bytes sort like the text they encode
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return place[first_seen], [distinct[i].decode() for i in order]

    def keys(self) -> np.ndarray:
        """Return a 64-bit hash of every name, (names,) uint64, the same on every machine."""
        longest = int((self.ends - self.starts).max(initial=0))
        powers = np.full(longest + 1, MULTIPLIER, np.uint64)
        powers[0] = 1
        powers = np.cumprod(powers)
        found = np.empty(len(self), np.uint64)
        for first in range(0, len(self), BLOCK):
            starts, ends = self.starts[first : first + BLOCK], self.ends[first : first + BLOCK]
            lengths = ends - starts
            offsets = np.cumsum(lengths) - lengths
            place = np.arange(int(lengths.sum())) - np.repeat(offsets, lengths)
            letters = self.buffer[place + np.repeat(starts, lengths)].astype(np.uint64) + np.uint64(1)
            letters *= powers[place]
            sums = np.add.reduceat(letters, offsets) if len(letters) else np.zeros(len(starts), np.uint64)
            sums[lengths == 0] = 0
            found[first : first + BLOCK] = sums
        # spread the low bits, which depend on few letters, over the whole word
        found ^= found >> np.uint64(32)
        found *= np.uint64(MULTIPLIER)
        return found ^ (found >> np.uint64(29))

    def repeated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return index pairs of equal names: where a name stood first or before, and where it stands again."""
        keys = self.keys()
        order = np.argsort(keys, kind="stable")
        suspects = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        pairs = [(order[i], order[i + 1]) for i in suspects if self[order[i]] == self[order[i + 1]]]
        first, again = zip(*pairs) if pairs else ((), ())
        return np.array(first, np.int64), np.array(again, np.int64)


class Lookup:
    """Where names are found among those given here; each is known by a hash of 64 bits."""

    def __init__(self, names: Names):
        keys = names.keys()
        self.order = np.argsort(keys, kind="stable")
        self.keys = keys[self.order]

    def rows(self, names: Names) -> np.ndarray:
        """Return the place of every name, (names,) int64, -1 where it is not among them."""
        keys = names.keys()
        if not len(self.keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.order[place], -1)


def fields(data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut lines into words at spaces and tabs.

    Returns:
        starts and ends (words,) of the words in `data`; for every line that is not blank its number from 1 and the
        index of its first word, (lines,) each.
    """
    letters = np.frombuffer(data, np.uint8)
    space = _SPACE[letters]
    edges = np.flatnonzero(np.diff(space, prepend=True, append=True))
    starts, ends = edges[::2], edges[1::2]
    line = np.searchsorted(np.flatnonzero(letters == 10), starts) + 1
    first = np.flatnonzero(np.diff(line, prepend=0))
    return starts, ends, line[first], first
