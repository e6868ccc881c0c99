"""The bytes of codes and the rates and ratios of compression."""

import math

import numpy as np
import pytest

from audio.code_stream import HEADER, from_bytes, to_bytes
from scoring import compression
from scoring.reconstruction import mean_and_deviation


def test_the_rate_of_the_bytes_is_the_stated_one():
    codes = np.random.default_rng(0).integers(0, 512, (8, 1250))  # 100 s at a stride of 8 frames
    data = to_bytes(codes, 512, 10000)
    assert (len(data) - HEADER.size) * 8 / 100 == compression.bits_per_second(8, 512, 8) == 900
    assert np.array_equal(from_bytes(data).codes, codes) and from_bytes(data, "12" * 32).frames == 10000


@pytest.mark.parametrize("codewords,width", [(1, 1), (2, 1), (3, 2), (64, 6), (65, 7), (70000, 17)])
def test_codes_of_any_codebook_come_back(codewords, width):
    codes = np.random.default_rng(0).integers(0, codewords, (3, 11)).astype(np.int32)
    data = to_bytes(codes, codewords, 88)
    assert len(data) == HEADER.size + math.ceil(33 * width / 8) and np.array_equal(from_bytes(data).codes, codes)


def test_wrong_bytes_and_codes_are_named():
    codes = np.arange(6).reshape(2, 3)
    data = to_bytes(codes, 6, 20, "ab" * 32)
    for broken, message in (
        (b"RIFF" + data[4:], "not a stream of codes"),
        (data[:20], "not a stream of codes"),
        (data[:-1], f"{len(data) - 1} bytes, its header says {len(data)}"),
        (data + b"x", "its header says"),
        (data[:-1] + b"\xff", "code 7, there are 6 codewords"),
    ):
        with pytest.raises(ValueError, match=message):
            from_bytes(broken)
    with pytest.raises(ValueError, match="codes of the model abab.*this one is cdcd"):
        from_bytes(data, "cd" * 32)
    for wrong, message in ((codes[0], "shape"), (codes * 1.0, "integers"), (codes + 1, "from 0 to 5")):
        with pytest.raises(ValueError, match=message):
            to_bytes(wrong, 6, 20)
    with pytest.raises(ValueError, match="not hexadecimal"):
        to_bytes(codes, 6, 20, "xyz")


def test_rate_of_an_entropy_coder():
    counts = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 0, 0, 0]])
    assert compression.entropy_bits_per_second(counts, 8) == pytest.approx(2 * 12.5)
    assert compression.entropy_bits_per_second(np.ones((8, 512)), 8) == pytest.approx(900)
    mean, deviation = mean_and_deviation(np.array([[1.0, 2.0]]))
    assert mean.tolist() == [1, 2] and np.isnan(deviation).all()
