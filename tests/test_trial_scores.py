"""Scores of trials against a plain loop over crops, their precision, and the files that hold them.
Entry point: pytest tests/test_trial_scores.py.
"""

import numpy as np
import pytest
import torch

from scoring import trials


def crops_of(seed: int, counts, dim: int = 24, dtype=torch.float32):
    """Return embeddings of files with the given numbers of crops, and offsets; crops of one file are alike."""
    generator = torch.Generator().manual_seed(seed)
    files = [torch.randn(1, dim, generator=generator) + 0.3 * torch.randn(n, dim, generator=generator) for n in counts]
    return torch.cat(files).to(dtype), np.cumsum([0, *counts])


def plain_score(a: np.ndarray, b: np.ndarray, mode: str) -> float:
    """Score one trial crop by crop, in double precision."""
    if mode == "distance":
        return -np.mean([np.linalg.norm(x - y) for x in a for y in b])
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    if mode == "cosine":
        return np.mean([x @ y for x in a for y in b])
    return a.mean(0) @ b.mean(0) / np.linalg.norm(a.mean(0)) / np.linalg.norm(b.mean(0))


@pytest.mark.parametrize("mode", trials.SCORE_MODES)
@pytest.mark.parametrize("counts", [[3] * 20, [1] * 20, [1, 4, 2, 4, 1, 7] * 3])
@pytest.mark.parametrize("listing", ["random", "one first file", "each file once", "none"])
def test_trial_scores_equal_a_plain_loop(mode, counts, listing):
    embeddings, offsets = crops_of(0, counts)
    pairs = np.random.default_rng(1).integers(0, len(counts), (150, 2))
    if listing == "one first file":
        pairs[:, 0] = 2
    elif listing == "each file once":
        pairs = np.random.default_rng(2).permutation(len(counts) // 2 * 2).reshape(-1, 2)
    elif listing == "none":
        pairs = pairs[:0]
    files = [embeddings[a:b].double().numpy() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    got = trials.score_trials(embeddings, offsets, pairs, mode)
    assert got.dtype == np.float64 and got.shape == (len(pairs),)
    np.testing.assert_allclose(got, [plain_score(files[a], files[b], mode) for a, b in pairs], atol=2e-6)
    np.testing.assert_allclose(trials.score_trials(embeddings, offsets, pairs[:, ::-1], mode), got, atol=2e-6)
    shards = [trials.score_trials(embeddings, offsets, pairs[rank::3], mode) for rank in range(3)]
    for rank, shard in enumerate(shards):
        np.testing.assert_allclose(shard, got[rank::3], atol=2e-6)


def test_small_blocks_change_nothing(monkeypatch):
    embeddings, offsets = crops_of(3, [2, 5] * 10)
    pairs = np.random.default_rng(1).integers(0, 20, (300, 2))
    expected = trials.score_trials(embeddings, offsets, pairs)
    monkeypatch.setattr(trials, "BLOCK_NUMBERS", {"cpu": 100})
    np.testing.assert_allclose(trials.score_trials(embeddings, offsets, pairs), expected, atol=2e-6)


def test_distances_are_exact_near_zero():
    embeddings, _ = crops_of(4, [1] * 40, dim=64)
    embeddings = torch.nn.functional.normalize(embeddings, dim=1)
    near = embeddings + 1e-4 * torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    table, offsets = torch.cat([embeddings, near, embeddings]), np.arange(121)
    files = np.arange(40)
    same = trials.score_trials(table, offsets, np.stack([files, files + 80], 1))
    assert (same == 0).all() and not np.signbit(same).any()
    close = trials.score_trials(table, offsets, np.stack([files, files + 40], 1))
    exact = -torch.linalg.vector_norm(embeddings.double() - near.double(), dim=1).numpy()
    np.testing.assert_allclose(close, exact, rtol=1e-6)
    # A file against itself: of its crops the diagonal is exactly 0, the others are not.
    crops = trials.score_trials(table, [0, 2, 120], [[0, 0]])
    assert crops[0] == pytest.approx(-float((table[0] - table[1]).norm()) / 2, rel=1e-6)


def test_nearly_equal_embeddings_keep_their_digits(monkeypatch):
    # What an untrained network gives: one direction, small differences. The products alone must resolve them.
    monkeypatch.setattr(trials, "NEAR", 0.0)
    embeddings, offsets = crops_of(5, [2] * 30, dim=64)
    embeddings = torch.nn.functional.normalize(torch.ones(64) + 1e-3 * embeddings, dim=1)
    pairs = np.random.default_rng(0).integers(0, 30, (200, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    exact = trials.score_trials(embeddings.double(), offsets, pairs)
    np.testing.assert_allclose(trials.score_trials(embeddings, offsets, pairs), exact, rtol=1e-4)


def test_scores_ignore_autocast_and_fast_products():
    embeddings, offsets = crops_of(6, [3] * 10)
    pairs = np.random.default_rng(0).integers(0, 10, (50, 2))
    expected = trials.score_trials(embeddings.requires_grad_(), offsets, pairs)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(trials.score_trials(embeddings, offsets, pairs), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", trials.SCORE_MODES)
def test_cuda_equals_cpu(mode):
    embeddings, offsets = crops_of(7, [1, 4, 2] * 10)
    pairs = np.random.default_rng(0).integers(0, 30, (500, 2))
    expected = trials.score_trials(embeddings.double(), offsets, pairs, mode)
    np.testing.assert_allclose(trials.score_trials(embeddings, offsets, pairs, mode, "cuda"), expected, atol=1e-6)


def test_bad_trials_of_embeddings_are_named():
    embeddings, offsets = crops_of(8, [2, 3])
    broken = embeddings.clone()
    broken[3, 1] = float("nan")
    for arguments, word in (
        ((embeddings, offsets, [[0, 2]]), "files 0 to 1"),
        ((embeddings, offsets, [[-1, 0]]), "files 0 to 1"),
        ((embeddings, offsets, [0, 1]), "pairs"),
        ((embeddings, [0, 2], [[0, 0]]), "offsets"),
        ((embeddings, [0, 3, 2, 5], [[0, 0]]), "offsets"),
        ((embeddings, [0, 2, 2, 5], [[0, 1]]), "file 1 occurs"),
        ((broken, offsets, [[0, 0]]), "file 1 is not finite"),
        ((embeddings, offsets, [[0, 1]], "plda"), "plda"),
    ):
        with pytest.raises(ValueError, match=word):
            trials.score_trials(*arguments)


def test_scores_survive_the_file(tmp_path):
    names, pairs = ["a/1.wav", "b/2.wav", "c/3.wav"], np.array([[0, 1], [2, 0], [1, 1]])
    scores = np.array([-0.123456789, 1e-9, -1234.5])
    trials.write_scores(tmp_path / "new" / "scores.txt", scores, pairs, names)
    text = (tmp_path / "new" / "scores.txt").read_text()
    assert text == "-0.12345679 a/1.wav b/2.wav\n1e-09 c/3.wav a/1.wav\n-1234.5 b/2.wav b/2.wav\n"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["scores.txt"]
    back = trials.read_scores(tmp_path / "new" / "scores.txt")
    np.testing.assert_allclose(trials.match_scores(back, names, pairs, "t"), scores, rtol=1e-7)
    order = [2, 0, 1]
    np.testing.assert_array_equal(trials.match_scores(back, names, pairs[order], "t"), back.scores[order])


@pytest.mark.parametrize(
    "text, word",
    [
        ("0.5 a b\n\n0.5 a\n", "line 3: 2 words"),
        ("0.5 a b\nhigh a b\n", "line 2: score 'high'"),
        ("nan a b\n", "line 1: score 'nan'"),
        ("0.5 a b\n0.5 b a\n", "line 2: b a is no trial"),
        ("0.5 a b\n0.5 a d\n", "line 2: a d is no trial"),
        ("0.5 a b\n", "no score for trial 2 of trials.txt: a c"),
        ("1 a b\n2 a c\n3 a c\n", "3 scores for the 2 trials"),
        ("\n\n", "no scores"),
    ],
)
def test_bad_score_files_are_named(tmp_path, text, word):
    path = tmp_path / "scores.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=word):
        trials.match_scores(trials.read_scores(path), ["a", "b", "c"], [[0, 1], [0, 2]], "trials.txt")


def test_protocol_line_states_everything():
    line = trials.protocol_line("lists/veri_test.txt", 37720, 4708, 10, 400, unit_length=True, eer_method="hull")
    for part in ("veri_test.txt", "37720", "4708", "10 crops of 400 frames", "distance", "unit length", "none", "hull"):
        assert part in line
    assert "whole files" in trials.protocol_line("x", 1, 2, 1, 0)
