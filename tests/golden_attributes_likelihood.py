"""Stored cases of likelihood ratios of binary attributes: parameters, scores, error rates, calibration, fusion.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
from golden_recipes import (
    boolean,
    check_arguments,
    compare_case,
    integer,
    list_of,
    make_inputs,
    number,
    one_of,
)

from scoring import calibration, fusion, likelihood, metrics, population, smoothed

AREA = "attributes"
FORM = one_of("dna", "speech")


def llr(case):
    args = case["args"]
    allowed = {
        "n_attributes": integer, "n_speakers": integer, "forms": list_of(FORM), "drop_in": list_of(number),
        "typicality_threshold": number, "maxllr": lambda value: True, "beta": lambda value: True,
        "score_iterations": integer, "partial": lambda value: True,
    }  # fmt: skip
    check_arguments(args, allowed)
    start = {"f": number, "p": number, "q": number}
    check_arguments(args["maxllr"], {**start, "iterations": list_of(integer)})
    check_arguments(
        args["beta"], {"K": one_of(2), "eps": number, "iterations": list_of(integer), "dtype": one_of("float64")}
    )
    check_arguments(args["partial"], {"form": FORM, "drop_in": number, "trials": integer})
    roles = dict.fromkeys(("speaker", "trials", "usable", "multi_enrol", "multi_test"), ("stored",))
    inputs = make_inputs(AREA, case, {"codes": ("packed",), **roles})
    codes, trials, usable = inputs["codes"].astype(np.uint8), inputs["trials"], inputs["usable"]
    assert codes.shape[1] == args["n_attributes"]

    def counted(bits):
        return population.population(bits, inputs["speaker"], [str(i) for i in range(args["n_speakers"])])

    def fitted(kind, bits, **options):
        return likelihood.fit_model(kind, counted(bits), **options)

    def scored(model, bits):
        sides = [likelihood.single(bits[trials[:, side]]) for side in range(2)]
        rows = np.arange(len(trials))
        return likelihood.score_pairs(model, *sides, np.stack([rows, rows], 1))

    def scored_multi(model, columns):
        sides = [inputs[f"multi_{side}"][:, columns] for side in ("enrol", "test")]
        sides = [likelihood.Side(counts[..., 0].astype(np.int64), counts[:, 0].sum(-1).astype(int)) for counts in sides]
        rows = np.arange(len(sides[0].active))
        return likelihood.score_pairs(model, *sides, np.stack([rows, rows], 1))

    pop, every = counted(codes), np.arange(codes.shape[1])
    found = {
        "counts": pop.recordings, "stats": np.stack([pop.active, pop.recordings[:, None] - pop.active], -1),
        "typicality": population.typicality(pop), "dropout": population.drop_out(pop),
    }  # fmt: skip
    for form in args["forms"]:
        for drop_in in args["drop_in"]:
            model = fitted(form, codes, drop_in=drop_in, least_typicality=args["typicality_threshold"])
            found[f"{form}_{drop_in}_llr_table"] = likelihood.case_terms(model).transpose(1, 0, 2)
            found[f"{form}_{drop_in}_scores"] = scored(model, codes)
    first = tuple(args["maxllr"][name] for name in start)
    usable_codes = codes[:, usable]
    for iterations in sorted({*args["maxllr"]["iterations"], args["score_iterations"]}):
        model = fitted("maxllr", usable_codes, start=first, iterations=iterations)
        found |= {f"maxllr_{iterations}_{name}": values for name, values in model.parameters.items()}
        if iterations == args["score_iterations"]:
            found |= {"maxllr_scores": scored(model, usable_codes), "multi_maxllr_scores": scored_multi(model, usable)}
    for iterations in sorted({*args["beta"]["iterations"], args["score_iterations"]}):
        model = fitted("beta", usable_codes, iterations=iterations, eps=args["beta"]["eps"])
        found[f"beta_{iterations}_alpha"] = model.parameters["alpha"]
        if iterations == args["score_iterations"]:
            found |= {"beta_scores": scored(model, usable_codes), "multi_beta_scores": scored_multi(model, usable)}
    model = fitted("cosine", codes)
    found |= {"cosine_scores": scored(model, codes), "multi_cosine_scores": scored_multi(model, every)}
    part = args["partial"]
    model = fitted(part["form"], codes, drop_in=part["drop_in"], least_typicality=args["typicality_threshold"])
    sides = [likelihood.single(codes[trials[: part["trials"], side]]) for side in range(2)]
    terms = likelihood.partials(model, *sides)
    # the array is named by its four trials; it may be that others are named by theirs
    found |= {f"{part['form']}_{part['drop_in']}_partial_first{count}": terms for count in (4, part["trials"])}
    compare_case(AREA, case, found)


def both(targets, impostors):
    """Return scores and labels of two sets."""
    labels = np.repeat([1, 0], [len(targets), len(impostors)])
    return np.concatenate([targets, impostors]).astype(np.float64), labels


def llr_metrics(case):
    args = case["args"]
    allowed = {
        "sets": list_of(lambda value: isinstance(value, str)), "p_target": list_of(number), "c_miss": number,
        "c_fa": number, "eer_method": one_of("midpoint"), "smoothing": lambda value: True,
    }  # fmt: skip
    check_arguments(args, allowed)
    kinds = {"method": one_of("laplace"), "pseudo_trials_per_end": integer, "monotonicity_slope": number}
    check_arguments(args["smoothing"], kinds)
    pseudo, slope = args["smoothing"]["pseudo_trials_per_end"], args["smoothing"]["monotonicity_slope"]
    roles = {f"{name}_{part}": ("stored",) for name in args["sets"] for part in ("tar", "non")}
    inputs, found = make_inputs(AREA, case, roles), {}
    for name in args["sets"]:
        targets = len(inputs[f"{name}_tar"])
        scores, labels = both(inputs[f"{name}_tar"], inputs[f"{name}_non"])
        counts = metrics.count_accepted(scores, labels)
        eer, threshold = metrics.eer_of(counts, args["eer_method"])
        llrs = smoothed.optimal_llrs(scores, labels, pseudo, slope)
        made = {
            "eer": eer / 100, "cllr": metrics.cllr(scores, labels), "cllr_min_raw": metrics.min_cllr_of(counts),
            "eer_rocch_raw": metrics.eer_of(counts, "hull")[0] / 100,
            "cllr_min": smoothed.smoothed_min_cllr(scores, labels, pseudo, slope),
            "eer_rocch": smoothed.smoothed_hull_eer(scores, labels, pseudo) / 100,
            "pav_tar": llrs[:targets], "pav_non": llrs[targets:],
        }  # fmt: skip
        for prior in args["p_target"]:
            costs = prior, args["c_miss"], args["c_fa"]
            made[f"mindcf_norm_{prior}"] = metrics.min_dcf_of(counts, *costs)[0]
            made[f"mindcf_raw_{prior}"] = metrics.raw_min_dcf_of(counts, *costs)
        made |= {f"bms_{key}": value for key, value in metrics.decisions(scores, labels, threshold).items()}
        found |= {f"{name}_{key}": value for key, value in made.items()}
    compare_case(AREA, case, found)


def calibrate(case):
    args = case["args"]
    numbers = {"balanced": boolean, "C": number, "unregularised_C": number}
    check_arguments(args, {**numbers, "fusion": lambda value: True})
    fused = args["fusion"]
    check_arguments(
        fused,
        {
            "penalty": one_of("l1"), "penalise_intercept": boolean, "balanced": boolean, "C": list_of(number),
            "standardise": one_of("dev"), "label_rule": lambda value: True, "noise_scale": number,
            "label_scale": number,
        },
    )  # fmt: skip
    check_arguments(fused["label_rule"], {"every": integer})
    stored = dict.fromkeys(("dev_tar", "dev_non", "test_tar", "test_non", "fus_w"), ("stored",))
    inputs = make_inputs(AREA, case, {**stored, "fus_dev": ("noise",), "fus_test": ("noise",)})
    dev, test = (both(inputs[f"{part}_tar"], inputs[f"{part}_non"]) for part in ("dev", "test"))
    prior = 0.5 if args["balanced"] else float(dev[1].mean())
    found = {}
    for suffix, strength in (("", args["C"]), ("_unregularised", args["unregularised_C"])):
        fit = calibration.fit(*dev, ["llr"], prior, strength=strength)
        # what a regression that is not balanced adds to the ratio: the odds of its classes
        found[f"coef{suffix}"] = np.array(fit.scales)
        found[f"intercept{suffix}"] = np.array([fit.offset + np.log(prior / (1 - prior))])
    found["test_cllr_before"] = metrics.cllr(*test)
    found["test_cllr_after"] = metrics.cllr(test[0] * found["coef"] + found["intercept"], test[1])
    found["test_cllr_min"] = smoothed.smoothed_min_cllr(*test)
    terms, labels = {}, {}
    for part in ("dev", "test"):
        draw = inputs[f"fus_{part}"].astype(np.float64)
        labels[part] = (np.arange(len(draw)) % fused["label_rule"]["every"] == 0).astype(int)
        terms[part] = fused["noise_scale"] * draw + fused["label_scale"] * np.outer(labels[part], inputs["fus_w"])
    for strength in fused["C"]:
        fit = fusion.fit_fusion(terms["dev"], labels["dev"], strength, fused["balanced"], fused["penalise_intercept"])
        llrs = fit.apply(terms["test"])
        made = {
            "coef": fit.weights, "intercept": np.array([fit.offset]), "nonzero": np.count_nonzero(fit.weights),
            "cllr": metrics.cllr(llrs, labels["test"]), "cllr_min": smoothed.smoothed_min_cllr(llrs, labels["test"]),
            "eer_rocch": smoothed.smoothed_hull_eer(llrs, labels["test"]) / 100,
        }  # fmt: skip
        found |= {f"fus_{strength}_{key}": value for key, value in made.items()}
    compare_case(AREA, case, found)


KINDS = {"llr": llr, "llr_metrics": llr_metrics, "calibration": calibrate}
