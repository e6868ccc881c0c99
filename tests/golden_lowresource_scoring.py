"""Stored cases of scores in recognition with limited data: normalisation by a cohort, error rates, post-processing.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
from golden_recipes import check_arguments, compare_case, integer, list_of, make_inputs, number, one_of

from scoring import metrics, norms

AREA = "lowresource"


def figures(scores, labels, args):
    """Return the EER as a fraction and minDCF at each prior."""
    counts = metrics.count_accepted(scores, labels)
    costs = [metrics.min_dcf_of(counts, p, args.get("c_miss", 1), args.get("c_fa", 1))[0] for p in args["p_target"]]
    return [metrics.eer_of(counts, args["eer_method"])[0] / 100, *costs]


def score_normalisation(case):
    args = case["args"]
    allowed = {"topk": integer, "eer_method": one_of("interpolated"), "p_target": list_of(number)}
    check_arguments(args, {**allowed, "std": one_of("unbiased")})
    roles = dict.fromkeys(("embeddings", "cohort", "trials", "labels"), ("stored",))
    inputs = make_inputs(AREA, case, roles)
    given, top = (inputs["embeddings"], inputs["trials"], inputs["cohort"]), args["topk"]
    found = {"raw": norms.score_and_normalise(*given)}
    for suffix, count in (("full", 0), (f"top{top}", top)):
        for method in ("z-norm", "t-norm", "s-norm"):
            found[f"{method.replace('-', '_')}_{suffix}"] = norms.score_and_normalise(*given, method, count)
    found[f"as_norm1_top{top}"] = norms.score_and_normalise(*given, "as-norm", top)
    found[f"as_norm2_top{top}"] = norms.score_and_normalise(*given, "as-norm2", top)
    rows = [figures(found[name], inputs["labels"], args) for name in case["metrics_rows"]]
    compare_case(AREA, case, {**found, "metrics": np.array(rows)})


def verification_metrics(case):
    args = case["args"]
    allowed = {"eer_method": one_of("interpolated"), "p_target": list_of(number), "c_miss": number, "c_fa": number}
    check_arguments(args, allowed)
    inputs = make_inputs(AREA, case, {"scores": ("stored",), "labels": ("stored",)})
    eer, *costs = figures(inputs["scores"], inputs["labels"], args)
    threshold = metrics.eer(inputs["scores"], inputs["labels"], args["eer_method"])[1]
    compare_case(AREA, case, {"eer": np.array([eer, threshold]), "mindcf": np.array(costs)})


def evaluation_postprocessing(case):
    args = case["args"]
    variants = ("plain", "length_norm", "centring")
    allowed = {"eps": number, "eer_method": one_of("interpolated")}
    check_arguments(args, {**allowed, "variants": list_of(one_of(*variants)), "statistics": one_of("speaker_means")})
    roles = dict.fromkeys(("embeddings", "speaker_means", "trials", "labels"), ("stored",))
    inputs = make_inputs(AREA, case, roles)
    vectors, trials = inputs["embeddings"], inputs["trials"]
    statistics = norms.mean_and_deviation(inputs["speaker_means"])
    treated = [vectors, norms.unit_length(vectors), norms.centre(vectors, *statistics, args["eps"])]
    scores = {name: norms.score_and_normalise(rows, trials) for name, rows in zip(variants, treated)}
    rates = [figures(scores[name], inputs["labels"], {**args, "p_target": []})[0] for name in args["variants"]]
    compare_case(AREA, case, {"eer": np.array(rates), "centred_scores": scores["centring"]})


KINDS = {
    "score_normalisation": score_normalisation,
    "verification_metrics": verification_metrics,
    "evaluation_postprocessing": evaluation_postprocessing,
}
