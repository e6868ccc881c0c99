"""Stored cases of the generative models: networks, attention, latents and objectives, features and schedules.

Every case is run by its kind and arguments, never by its name; a kind, argument or option nobody knows fails.
The kinds are in golden_generative_*.py, each of which has KINDS, {kind: function of the case}.
"""

import importlib

import pytest
from golden_recipes import load_cases

NAMES = ("networks", "attention", "latents", "features")
PARTS = [importlib.import_module(f"golden_generative_{name}") for name in NAMES]
KINDS = {kind: run for part in PARTS for kind, run in part.KINDS.items()}
CASES = [case for _, case in load_cases("generative")]


def test_every_kind_is_in_one_place():
    assert len(KINDS) == sum(len(part.KINDS) for part in PARTS)


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['id']}" for case in CASES])
def test_stored_case(case):
    kind = case["kind"]
    assert kind in KINDS, f"unknown kind {kind}"
    KINDS[kind]({key: value for key, value in case.items() if key != "name"})
