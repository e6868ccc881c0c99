"""Stored cases of recognition with limited data: networks, features, losses, schedules, wav2vec 2.0, scores.

Every case is run by its kind and arguments, never by its name; a kind, argument or option nobody knows fails.
The kinds are in golden_lowresource_*.py, each of which has KINDS, {kind: function of the case}.
"""

import importlib.util

import pytest
from golden_recipes import load_cases

PARTS = ("networks", "wav2vec2", "scoring", "training")
CASES = [case for _, case in load_cases("lowresource")]


def kinds():
    """Return {kind: function} of all parts."""
    found = {}
    for part in PARTS:
        name = f"golden_lowresource_{part}"
        if importlib.util.find_spec(name) is None:
            continue
        own = importlib.import_module(name).KINDS
        assert not set(own) & set(found), f"{name} has kinds of another part: {sorted(set(own) & set(found))}"
        found |= own
    return found


KINDS = kinds()


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['name']}" for case in CASES])
def test_stored_case(case):
    assert case["kind"] in KINDS, f"unknown kind {case['kind']}"
    KINDS[case["kind"]]({key: value for key, value in case.items() if key != "name"})
