"""The two sides of comparisons, each one recording or several: counts of codes, cosines of embeddings.
Entry points: cells_of, code_side, embedding_scores, check_codes, check_embeddings.
"""

from typing import NamedTuple

import numpy as np

from scoring.codes import Codes
from scoring.embeddings import Table, check_source
from scoring.likelihood import Side, pooled
from scoring.norms import unit_length
from scoring.trials import product_scores


class Cells(NamedTuple):
    """Distinct cells (tuples of ids) of both sides and which ones are compared: pairs (trials, 2)."""

    enrolment: list[tuple[str, ...]]
    test: list[tuple[str, ...]]
    pairs: np.ndarray

    def names(self) -> tuple[list[str], np.ndarray]:
        """Return a name of every cell, its ids with commas between them, and pairs of indices into these names."""
        texts = [",".join(cell) for cell in (*self.enrolment, *self.test)]
        return texts, self.pairs + np.array([0, len(self.enrolment)])


def cells_of(enrolment: list[tuple[str, ...]], test: list[tuple[str, ...]]) -> Cells:
    """Return the distinct cells of comparisons (one tuple of ids a side) and the pairs of them."""
    numbers = [{}, {}]
    index = [[found.setdefault(cell, len(found)) for cell in side] for found, side in zip(numbers, (enrolment, test))]
    return Cells(list(numbers[0]), list(numbers[1]), np.array(index, dtype=np.int64).T.reshape(-1, 2))


def rows_of(table, cells: list[tuple[str, ...]]) -> list[np.ndarray]:
    """Return the rows of a table of codes or embeddings that each cell names; errors as in its rows()."""
    rows = table.rows([name for cell in cells for name in cell])
    return np.split(rows, np.cumsum([len(cell) for cell in cells])[:-1])


def code_side(codes: Codes, cells: list[tuple[str, ...]]) -> Side:
    """Return the side of the given cells, counts of a cell's recordings added up."""
    return pooled(codes.bits, rows_of(codes, cells))


def embedding_scores(table: Table, cells: Cells) -> np.ndarray:
    """Return the cosines (trials,) of the mean directions of both sides."""
    sides = [_mean_directions(table, side) for side in (cells.enrolment, cells.test)]
    return product_scores(np.concatenate(sides), cells.names()[1])


def _mean_directions(table: Table, cells: list[tuple[str, ...]]) -> np.ndarray:
    rows = rows_of(table, cells)
    starts = np.cumsum([0, *(len(r) for r in rows[:-1])])
    return unit_length(np.add.reduceat(unit_length(table.vectors[np.concatenate(rows)]), starts, axis=0))


def check_codes(meta: dict, path: str, attributes: int, codes: Codes, allow_other: bool = False):
    """Refuse codes of another number of attributes, by another encoder, or on embeddings by another network, than what
    `meta` of `path` tells of.

    Raises:
        ValueError: which made each, and what to do.
    """
    if codes.bits.shape[1] != attributes:
        raise ValueError(f"{codes.path}: codes of {codes.bits.shape[1]} attributes, {path} has {attributes}")
    if allow_other:
        return
    if meta.get("encoder_sha256") != codes.meta.get("encoder_sha256"):
        one, two = (f"{x.get('encoder')} (sha256 {x.get('encoder_sha256')})" for x in (codes.meta, meta))
        raise ValueError(
            f"{codes.path}: codes by encoder {one}, {path} is of {two}: make the codes anew, or give "
            "--allow_other_encoder"
        )
    made, wanted = codes.meta.get("embeddings", {}), meta.get("embeddings", {})
    check_source(wanted, path, made, codes.path, "--allow_other_encoder")


def check_embeddings(table: Table, codes: Codes):
    """Refuse embeddings of another network than those that the codes were made of; errors as in check_source."""
    check_source(codes.meta.get("embeddings", {}), codes.path, table.meta, table.path, "--allow_other_encoder")
