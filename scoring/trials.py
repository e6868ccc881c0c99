"""Scores of trials from the embeddings of crops, in batched matrix products, and the text files that hold them.
Entry points: score_trials, product_scores; write_scores, read_scores, match_scores.
"""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

SCORE_MODES = ("distance", "cosine", "cosine_of_mean")
# Partners gathered per first file and numbers per gathered block: the block stays in the second-level cache of a CPU.
PARTNERS = 16
BLOCK_NUMBERS = {"cpu": 640_000, "cuda": 32_000_000}
# |a|^2 + |b|^2 - 2ab keeps too few digits where the result is this small a part of |a|^2 + |b|^2.
NEAR = 0.05


def score_trials(embeddings, offsets, pairs, mode: str = "distance", device=None) -> np.ndarray:
    """Return the scores of trials (trials,) in float64; higher = more likely the same speaker.

    distance: minus the mean Euclidean distance over all pairs of crops of the two files. cosine: mean cosine over all
    pairs of crops. cosine_of_mean: cosine of the two mean unit-length embeddings.

    Args:
        embeddings: (crops of all files, dim), file after file; unit length already where the loss asks for it.
        offsets: (files + 1,) integers; the crops of file f are rows offsets[f] to offsets[f + 1].
        pairs: (trials, 2) integers, the files of each trial.
        device: where to compute; default where the embeddings are. CUDA computes in double precision, because the
            networks may have allowed TF32 there.

    Raises:
        ValueError: unknown mode, shapes that do not fit, a file without crops, an embedding that is not finite.
    """
    if mode not in SCORE_MODES:
        raise ValueError(f"score mode {mode!r} is none of {', '.join(SCORE_MODES)}")
    embeddings = torch.as_tensor(embeddings).detach()
    offsets, pairs = _check(embeddings, offsets, pairs)
    embeddings = embeddings.to(device)
    if embeddings.dtype != torch.float64:
        embeddings = embeddings.float()
    with torch.inference_mode(), torch.autocast(embeddings.device.type, enabled=False), exact_products():
        if mode == "distance":
            # 0 - x and not -x: identical crops score 0, not -0.
            return 0.0 - _mean_over_crops(embeddings, offsets, pairs, _distances(embeddings))
        means = _mean_directions(embeddings, offsets)
        if mode == "cosine_of_mean":
            means = torch.nn.functional.normalize(means, dim=1)
        return _mean_over_crops(means, np.arange(len(means) + 1), pairs, _products(means))


def product_scores(vectors, pairs, dtype=torch.float32) -> np.ndarray:
    """Return the dot products (trials,) in float64, computed in `dtype`, of rows of `vectors` (files, dim); see
    score_trials for errors."""
    table = torch.as_tensor(vectors).detach().to(dtype)
    offsets, pairs = _check(table, np.arange(len(table) + 1), pairs)
    with torch.inference_mode(), exact_products():
        return _mean_over_crops(table, offsets, pairs, _products(table))


def _check(embeddings: torch.Tensor, offsets, pairs) -> tuple[np.ndarray, np.ndarray]:
    offsets, pairs = np.asarray(offsets, dtype=np.int64), np.asarray(pairs, dtype=np.int64)
    if embeddings.ndim != 2 or offsets.ndim != 1 or len(offsets) < 1 or pairs.ndim != 2 or pairs.shape[1] != 2:
        shapes = f"{tuple(embeddings.shape)}, {offsets.shape}, {pairs.shape}"
        raise ValueError(f"embeddings, offsets, pairs must be (crops, dim), (files + 1,), (trials, 2), not {shapes}")
    if offsets[0] != 0 or offsets[-1] != len(embeddings) or (np.diff(offsets) < 0).any():
        raise ValueError(f"offsets must rise from 0 to {len(embeddings)} crops, not {offsets[0]} to {offsets[-1]}")
    files = len(offsets) - 1
    if pairs.size and (pairs.min() < 0 or pairs.max() >= files):
        raise ValueError(
            f"trials name files {pairs.min()} to {pairs.max()}, there are embeddings of files 0 to {files - 1}"
        )
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if np.isin(empty, pairs).any():
        raise ValueError(f"file {empty[np.isin(empty, pairs)][0]} occurs in a trial and has no embedding")
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        row = int(torch.nonzero(~finite)[0])
        raise ValueError(f"embedding of file {int(np.searchsorted(offsets, row, side='right')) - 1} is not finite")
    return offsets, pairs


@contextmanager
def exact_products():
    """Switch off shortened float32 products (TF32, bfloat16) in a `with` block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _mean_directions(embeddings: torch.Tensor, offsets: np.ndarray) -> torch.Tensor:
    """Return the mean unit-length embedding of every file (files, dim); zero for a file without crops.

    The mean cosine over all pairs of crops is the product of two such means.
    """
    counts = torch.as_tensor(np.diff(offsets), device=embeddings.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=embeddings.device), counts)
    unit = torch.nn.functional.normalize(embeddings, dim=1).double()
    sums = unit.new_zeros(len(counts), embeddings.shape[1]).index_add_(0, owner, unit)
    return sums / counts.clamp(min=1)[:, None]


def _products(table: torch.Tensor):
    """Return a function that gives the dot products of gathered rows of the table; see _distances."""

    def compare(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.bmm(_rows(table, first), _rows(table, second).transpose(1, 2))

    return compare


def _distances(table: torch.Tensor):
    """Return a function that gives the Euclidean distances of gathered rows of the table, precise near zero too.

    It takes indices (batch, m) and (batch, n) and returns (batch, m, n).
    """
    dtype = torch.float64 if table.device.type == "cuda" else table.dtype
    # Distances do not see a common shift. Without the common mean the embeddings of an untrained network, which are
    # nearly alike, keep their digits in the products and few distances have to be computed anew.
    centred = table - table.mean(0, dtype=torch.float64).to(table.dtype)
    squares = centred.to(dtype).square().sum(1)
    step = max(1, _block(table) // table.shape[1])

    def compare(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        a, b = _rows(centred, first).to(dtype), _rows(centred, second).to(dtype)
        total = squares[first][:, :, None] + squares[second][:, None, :]
        squared = torch.baddbmm(total, a, b.transpose(1, 2), alpha=-2)
        near = squared <= NEAR * total
        distances = squared.clamp_(min=0).sqrt_()
        if near.any():
            for part in torch.nonzero(near).split(step):
                batch, i, j = part.unbind(1)
                gap = _rows(table, first[batch, i]) - _rows(table, second[batch, j])
                distances[batch, i, j] = torch.linalg.vector_norm(gap, dim=1, dtype=dtype)
        return distances

    return compare


def _block(table: torch.Tensor) -> int:
    """Return how many numbers to gather at a time."""
    return BLOCK_NUMBERS.get(table.device.type, BLOCK_NUMBERS["cpu"])


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Gather rows of a table: index.shape + (dim,)."""
    return table.index_select(0, index.reshape(-1)).view(*index.shape, -1)


def _mean_over_crops(table, offsets, pairs, compare) -> np.ndarray:
    """Return the mean of compare over all pairs of crops of each trial (trials,), in float64.

    Trials of the same numbers of crops are scored together, those of one first file side by side.
    """
    scores = np.empty(len(pairs))
    crops = np.diff(offsets)[pairs]
    base = int(crops.max(initial=0)) + 1
    kind = crops[:, 0] * base + crops[:, 1]
    for value in np.unique(kind):
        chosen = np.flatnonzero(kind == value)
        m, n = divmod(int(value), base)
        scores[chosen] = _score_uniform(table, offsets, pairs[chosen], m, n, compare)
    return scores


def _score_uniform(table, offsets, pairs, m: int, n: int, compare) -> np.ndarray:
    """Score trials whose first files all have m crops and whose second files all have n."""
    firsts, partners, place = _pack(pairs)
    rows, width = partners.shape
    device = table.device
    starts = torch.as_tensor(offsets, device=device)
    crops_m, crops_n = torch.arange(m, device=device), torch.arange(n, device=device)
    step = max(1, _block(table) // (width * n * table.shape[1]))
    firsts, partners = torch.as_tensor(firsts, device=device), torch.as_tensor(partners, device=device)
    means = torch.empty(rows, width, dtype=torch.float64, device=device)
    for i in range(0, rows, step):
        first = starts[firsts[i : i + step], None] + crops_m
        second = (starts[partners[i : i + step], None] + crops_n).flatten(1)
        values = compare(first, second).view(len(first), m, width, n)
        means[i : i + step] = values.mean(dim=(1, 3), dtype=torch.float64)
    return means.cpu().numpy().reshape(-1)[place]


def _pack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pack trials into rows of one first file and several second files.

    Returns:
        first files (rows,), second files (rows, width), and the place of each trial in the flattened second array.
        The width is about half the trials of a first file, so that few places are left over (they repeat a file).
    """
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    files, begin, number = np.unique(pairs[order, 0], return_index=True, return_counts=True)
    width = int(np.clip(2 ** np.floor(np.log2(len(pairs) / len(files) / 2 + 1e-9)), 1, PARTNERS))
    rows_of = -(-number // width)
    first_row = np.cumsum(rows_of) - rows_of
    inside = np.arange(len(pairs)) - np.repeat(begin, number)
    slot = np.repeat(first_row, number) * width + inside
    firsts = np.repeat(files, rows_of)
    partners = np.repeat(pairs[order[begin], 1], rows_of * width)
    partners[slot] = pairs[order, 1]
    place = np.empty(len(pairs), dtype=np.int64)
    place[order] = slot
    return firsts, partners.reshape(-1, width), place


class ScoreList(NamedTuple):
    """A file of scores: scores (trials,), pairs (trials, 2) of indices into names, and the line each was read from."""

    scores: np.ndarray
    pairs: np.ndarray
    names: list[str]
    lines: np.ndarray
    path: str


def write_scores(path, scores, pairs, names) -> None:
    """Write lines `score file1 file2` (%.8g) in the order of the trials; the file appears complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        for score, (a, b) in zip(np.asarray(scores).tolist(), np.asarray(pairs).tolist(), strict=True):
            file.write(f"{score:.8g} {names[a]} {names[b]}\n")
    os.replace(part, path)


def read_scores(path) -> ScoreList:
    """Read lines `score file1 file2`, as write_scores writes them; blank lines are ignored.

    Raises:
        FileNotFoundError, ValueError: missing, empty, or malformed (with the line's number).
    """
    scores, pairs, lines, index = [], [], [], {}
    for number, fields in _fields(path, "score file1 file2"):
        scores.append(_number(path, number, fields[0]))
        pairs.append((index.setdefault(fields[1], len(index)), index.setdefault(fields[2], len(index))))
        lines.append(number)
    return ScoreList(np.array(scores), np.array(pairs, dtype=np.int64), list(index), np.array(lines), str(path))


def read_labelled_scores(path) -> tuple[np.ndarray, np.ndarray]:
    """Read lines `label score` (1 target, 0 impostor) and return scores and labels; errors as in read_scores."""
    scores, labels = [], []
    hint = "; lines with names of files need their trials, --test_list"
    for number, (label, score) in _fields(path, "label score", hint):
        if label not in ("0", "1"):
            raise ValueError(f"{path}, line {number}: label {label[:40]!r} is neither 1 (target) nor 0 (impostor)")
        scores.append(_number(path, number, score))
        labels.append(label == "1")
    return np.array(scores), np.array(labels, dtype=np.int8)


def _fields(path, layout: str, hint: str = ""):
    """Yield line number and words of every line that is not blank; all must have the words of the layout."""
    wanted, number, found = len(layout.split()), 0, False
    if not Path(path).is_file():
        raise FileNotFoundError(f"score file {path}: no such file")
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if len(words) == wanted:
                found = True
                yield number, words
            elif words:
                raise ValueError(f"{path}, line {number}: {len(words)} words, expected `{layout}`{hint}")
    if not found:
        raise ValueError(f"{path}: no scores in {number} lines")


def _number(path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{path}, line {line}: score {text[:40]!r} is not a finite number")
    return value


def match_scores(scored: ScoreList, names, pairs, list_path) -> np.ndarray:
    """Return the scores in the order of a trial list, matched by file names where the orders differ.

    Raises:
        ValueError: a score without a trial (naming its line) or a trial without a score.
    """
    index = {name: i for i, name in enumerate(names)}
    own = np.array([index.get(name, -1) for name in scored.names])[scored.pairs]
    pairs = np.asarray(pairs)
    if np.array_equal(own, pairs):
        return scored.scores
    keys, wanted = (p[:, 0] * (len(names) + 1) + p[:, 1] for p in (own, pairs))
    stray = np.flatnonzero((own < 0).any(axis=1) | ~np.isin(keys, wanted))
    if stray.size:
        a, b = (scored.names[i] for i in scored.pairs[stray[0]])
        raise ValueError(f"{scored.path}, line {scored.lines[stray[0]]}: {a} {b} is no trial of {list_path}")
    missing = np.flatnonzero(~np.isin(wanted, keys))
    if missing.size:
        a, b = (names[i] for i in pairs[missing[0]])
        raise ValueError(f"{scored.path}: no score for trial {missing[0] + 1} of {list_path}: {a} {b}")
    if len(keys) != len(wanted):
        raise ValueError(f"{scored.path}: {len(keys)} scores for the {len(wanted)} trials of {list_path}")
    order, target = np.argsort(keys, kind="stable"), np.argsort(wanted, kind="stable")
    if not np.array_equal(keys[order], wanted[target]):
        raise ValueError(f"{scored.path}: a trial of {list_path} that is listed twice has not two scores")
    matched = np.empty(len(keys))
    matched[target] = scored.scores[order]
    return matched


def protocol_line(
    list_name,
    trials: int,
    files: int,
    crops: int,
    frames: int,
    mode: str = "distance",
    unit_length: bool = False,
    cohort: str | None = None,
    eer_method: str = "nearest",
) -> str:
    """Return the line that states what an error rate depends on; frames of 10 ms, 0 = whole files."""
    cut = f"{crops} crop{'' if crops == 1 else 's'} of {frames} frames" if frames else "whole files"
    length = "unit length" if unit_length else "as they are"
    return (
        f"protocol: {Path(list_name).name}, {trials} trials of {files} files, {cut}, score {mode}, "
        f"embeddings {length}, cohort {cohort or 'none'}, EER {eer_method}"
    )
