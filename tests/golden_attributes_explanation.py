"""Stored cases of what explains attributes: stepwise discriminant analysis, dependence of pairs.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
from golden_recipes import check_arguments, compare_case, integer, list_of, make_inputs, number, one_of

from scoring import stepwise

AREA = "attributes"


def attribute_explanation(case):
    args = case["args"]
    pair = list_of(integer)
    allowed = {"entry_levels": list_of(number), "n_class0": integer, "standardise": one_of("population")}
    check_arguments(args, {**allowed, "mi_pairs": list_of(pair), "log": one_of("natural")})
    inputs = make_inputs(AREA, case, {"X": ("stored",), "codes": ("packed",)})
    x = np.asarray(inputs["X"], dtype=np.float64)
    x = (x - x.mean(0)) / x.std(0)
    classes = (np.arange(len(x)) >= args["n_class0"]).astype(int)
    produced = {}
    for level in args["entry_levels"]:
        found = stepwise.stepwise_lda(x, classes, level)
        produced |= {f"order_{level:g}": found.order, f"wilks_{level:g}": found.wilks}
    one, other = np.array(args["mi_pairs"]).reshape(-1, 2).T
    found = stepwise.dependence(inputs["codes"])
    produced["mi"] = np.column_stack([
        found.entropy[one], found.entropy[other],
        *(matrix[one, other] for matrix in (found.joint, found.information, found.uncertainty)),
    ])  # fmt: skip
    compare_case(AREA, case, produced)


KINDS = {"attribute_explanation": attribute_explanation}
