"""Terms of one attribute in a likelihood ratio, as tables over the number of activations; natural logarithms.
Entry point: tables(model, e, t).

Of a comparison with a_e activations in e recordings and a_t in t the term is joint[a_e + a_t] - own[a_e] - own[a_t].
"""

import numpy as np

from scoring.population import ALPHA_LEAST, ALPHA_MOST, bounded

# DNA and Speech compare one recording with one: their joint table is all there is.
SINGLE_ONLY = ("dna", "speech")
MARGIN = 1e-9  # drop-in and drop-out stay this far from 0 and 1, where a ratio would be 0 or infinite


def tables(model, e: int, t: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return joint (n, e + t + 1), own (n, e + 1) and own (n, t + 1) of comparisons of e with t recordings, by the
    number of activations; all 0 for attributes that are not used."""
    if model.kind in SINGLE_ONLY:
        nothing = np.zeros((len(model.used), 2))
        made = _case_table(model), nothing, nothing
    else:
        made = tuple(_log_evidence(model, count) for count in (e + t, e, t))
    return tuple(np.where(model.used[:, None], table, 0.0) for table in made)


def _case_table(model) -> np.ndarray:
    """Return the log ratios (n, 3) where none, one or both of two recordings show the attribute, spec of Ben-Amor and
    Bonastre 2022: DNA (errors in the test only, mixed cases averaged) or Speech (errors on both sides)."""
    typical = np.clip(model.parameters["typicality"], 1e-12, 1)
    out = np.clip(model.parameters["drop_out"], 0, 1 - MARGIN)
    drop_in = np.clip(model.meta["drop_in"], MARGIN, 1 - MARGIN)
    chance = drop_in * typical
    if model.kind == "dna":
        both = 1 / (typical * (chance + 1 - out))
        none = 1 / (typical * (1 - drop_in + out))
        mixed = (drop_in / (chance + 1 - drop_in) + out / typical) / 2
    else:
        both = (1 + chance**2) / (typical * (2 * chance * (1 - out) + chance**2 + (1 - out) ** 2))
        none = (1 + out**2) / (typical * (2 * out * (1 - drop_in) + (1 - drop_in) ** 2 + out**2))
        errors = (1 - drop_in) * chance + out * (1 - out)
        mixed = errors / (typical * (1 + chance * out + errors))
    return np.log(np.stack([none, mixed, both], axis=1))


def _log_evidence(model, recordings: int) -> np.ndarray:
    """Return the log probability (n, recordings + 1) of 0, 1, ... activations in given ones of so many recordings."""
    shown = np.arange(recordings + 1)
    if model.kind == "maxllr":
        f, p, q = (bounded(model.parameters[name])[:, None] for name in "fpq")
        owner = np.log(f) + shown * np.log(p) + (recordings - shown) * np.log1p(-p)
        other = np.log1p(-f) + shown * np.log(q) + (recordings - shown) * np.log1p(-q)
        return np.logaddexp(owner, other)
    # B(alpha + counts) / B(alpha) as products of alpha, alpha + 1, ..., which keep their digits for a large alpha
    alpha = np.clip(model.parameters["alpha"], ALPHA_LEAST, ALPHA_MOST)
    rising = [_log_rising(values, recordings) for values in (alpha[:, 0], alpha[:, 1], alpha.sum(1))]
    return rising[0] + rising[1][:, ::-1] - rising[2][:, -1:]


def _log_rising(start: np.ndarray, most: int) -> np.ndarray:
    """Return ln of start (start + 1) ... (start + k - 1) for k = 0 .. most: (n, most + 1)."""
    made = np.zeros((len(start), most + 1))
    np.cumsum(np.log(start[:, None] + np.arange(most)), axis=1, out=made[:, 1:])
    return made
