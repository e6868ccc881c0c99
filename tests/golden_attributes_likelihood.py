"""Stored cases of likelihood ratios of binary attributes: parameters, scores, error rates, calibration, fusion.
Entry point: KINDS, {kind: function(case)}.
"""

import numpy as np
from golden_recipes import check_arguments, compare_case, integer, list_of, make_inputs, number, one_of

from scoring import likelihood, population

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
    # the name of the array counts four trials whatever their number
    found[f"{part['form']}_{part['drop_in']}_partial_first4"] = likelihood.partials(model, *sides)
    compare_case(AREA, case, found)


KINDS = {"llr": llr}
