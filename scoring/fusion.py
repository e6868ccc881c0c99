"""Fusion of the terms of single attributes: a sparse logistic regression on standardised per-attribute LLRs.
Entry points: fit_fusion, choose_strength, Fusion.apply; fit_pairs, apply_pairs for comparisons.
"""

from dataclasses import dataclass, field

import numpy as np

from scoring.likelihood import AttributeModel, Side, partials
from scoring.metrics import cllr, min_cllr

# Inverse strengths of Ben-Amor, Bonastre, van der Vloed, Odyssey 2024.
STRENGTHS = tuple(np.geomspace(1e-4, 10, 26).tolist())
FOLDS = 5
MOST_ITERATIONS = 5000
PATIENCE = 4  # strengths without a better Cllr, after which larger ones, which take longer, are not tried
MOST_IMPOSTORS = 30_000  # of the trials that a fusion is fitted on, as there
BLOCK = 20_000  # trials whose terms are held at a time


@dataclass
class Fusion:
    """llr = weights * (terms - mean) / deviation + offset; `fitted_on` says of what."""

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    offset: float
    fitted_on: dict = field(default_factory=dict)

    def apply(self, terms: np.ndarray) -> np.ndarray:
        """Return the natural-log LLRs (trials,) of per-attribute terms (trials, n)."""
        scale = self.weights / self.deviation
        return terms @ scale + (self.offset - self.mean @ scale)

    def describe(self) -> str:
        """Return one line: attributes kept, strength."""
        kept = int(np.count_nonzero(self.weights))
        return f"fusion keeps {kept} of {len(self.weights)} attributes (C {self.fitted_on['strength']:.4g})"


def fit_fusion(
    terms: np.ndarray, labels: np.ndarray, strength: float, balanced: bool = True, penalise_offset: bool = True
) -> Fusion:
    """Fit weights of per-attribute terms (trials, n) by logistic regression with an L1 penalty.

    Terms are standardised by their mean and population deviation here; constant ones get no weight.

    Args:
        strength: C, inverse strength of the penalty, as in scikit-learn.
        balanced: weigh both classes alike, so that the offset holds no prior.
        penalise_offset: the offset too, as the weight of a constant 1.
    """
    from sklearn.linear_model import LogisticRegression

    mean, deviation = terms.mean(0), terms.std(0)
    constant = deviation < 1e-12 * np.maximum(1, np.abs(mean))
    deviation = np.where(constant, 1.0, deviation)
    # the offset is the weight of a constant, penalised like the others where that is 1 and next to nothing at 1e6
    constant_input, tolerance = (1, 1e-6) if penalise_offset else (1e6, 1e-9)
    machine = LogisticRegression(
        solver="liblinear", l1_ratio=1.0, C=strength, class_weight="balanced" if balanced else None,
        max_iter=MOST_ITERATIONS, random_state=0, tol=tolerance, intercept_scaling=constant_input,
    )  # fmt: skip
    machine.fit((terms - mean) / deviation, labels)
    weights = np.where(constant, 0.0, machine.coef_[0])
    return Fusion(mean, deviation, weights, float(machine.intercept_[0]), {"strength": strength, "trials": len(labels)})


def choose_strength(
    terms: np.ndarray,
    labels: np.ndarray,
    sides: np.ndarray | None,
    strengths=STRENGTHS,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[float, list[dict]]:
    """Return the strength of the least cross-validated Cllr, and a row {strength, cllr, kept} for each.

    Speakers are dealt to folds; a fold is fitted on the trials without its speakers and tested on those of its speakers
    alone. `sides` (trials, 2): their speakers; None deals trials.
    """
    draw = np.random.default_rng(seed)
    if sides is None:
        fold = np.repeat(draw.integers(0, folds, len(labels))[:, None], 2, axis=1)
    else:
        names, index = np.unique(sides, return_inverse=True)
        fold = draw.permutation(np.arange(len(names)) % folds)[index.reshape(-1, 2)]
    parts = []
    for k in range(folds):
        inside, outside = (fold == k).all(1), (fold != k).all(1)
        if all(len(np.unique(labels[part])) == 2 for part in (inside, outside)):
            parts.append((inside, outside))
    if not parts:
        raise ValueError(f"fusion: {len(labels)} trials are too few for {folds} folds by speakers")
    rows = []
    for strength in sorted(strengths):
        fits = [fit_fusion(terms[outside], labels[outside], strength) for _, outside in parts]
        costs = [cllr(fit.apply(terms[inside]), labels[inside]) for fit, (inside, _) in zip(fits, parts)]
        kept = float(np.mean([np.count_nonzero(fit.weights) for fit in fits]))
        rows.append({"strength": strength, "cllr": float(np.mean(costs)), "kept": kept})
        best = int(np.argmin([row["cllr"] for row in rows]))
        if rows[best]["kept"] and len(rows) - 1 - best >= PATIENCE:
            break
    return min(rows, key=lambda row: row["cllr"])["strength"], rows


def fit_pairs(
    model: AttributeModel, enrol: Side, test: Side, pairs, labels, sides, strength: float | None = None, seed: int = 0
) -> Fusion:
    """Fit a fusion of the model's terms on comparisons, of their impostors at most MOST_IMPOSTORS drawn ones.

    Args:
        sides: (trials, 2) speakers for the cross-validation that chooses the strength where none is given.
    """
    impostors = np.flatnonzero(labels == 0)
    drawn = np.random.default_rng(seed).permutation(impostors)[:MOST_IMPOSTORS]
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == 1), drawn]))
    terms, labels = partials(model, enrol.take(pairs[chosen, 0]), test.take(pairs[chosen, 1])), labels[chosen]
    rows = []
    if strength is None:
        strength, rows = choose_strength(terms, labels, None if sides is None else sides[chosen], seed=seed)
    fitted = fit_fusion(terms, labels, strength)
    llrs = fitted.apply(terms)
    fitted.fitted_on |= {
        "attributes": int(np.count_nonzero(fitted.weights)), "cllr": cllr(llrs, labels),
        "calibration_loss": cllr(llrs, labels) - min_cllr(llrs, labels), "search": rows,
    }  # fmt: skip
    return fitted


def apply_pairs(fitted: Fusion, model: AttributeModel, enrol: Side, test: Side, pairs: np.ndarray) -> np.ndarray:
    """Return the fused LLRs (trials,) of comparisons."""
    blocks = (pairs[i : i + BLOCK] for i in range(0, len(pairs), BLOCK))
    return np.concatenate(
        [fitted.apply(partials(model, enrol.take(e), test.take(t))) for e, t in (b.T for b in blocks)]
    )
