"""Stored cases of recognition with limited data: networks, features, losses, schedules, wav2vec 2.0, scores.

Every case is run by its kind and arguments, never by its name; a kind, argument or option nobody knows fails.
The kinds are in golden_lowresource_*.py, each of which has KINDS, {kind: function of the case}.
"""

import golden_lowresource_networks as networks
import golden_lowresource_scoring as scoring
import golden_lowresource_training as training
import golden_lowresource_wav2vec2 as wav2vec2
import pytest
from golden_recipes import load_cases

PARTS = (networks, scoring, training, wav2vec2)
KINDS = {kind: run for part in PARTS for kind, run in part.KINDS.items()}
CASES = [case for _, case in load_cases("lowresource")]


def test_no_kind_is_in_two_parts():
    assert len(KINDS) == sum(len(part.KINDS) for part in PARTS)


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{case['name']}" for case in CASES])
def test_stored_case(case):
    assert case["kind"] in KINDS, f"unknown kind {case['kind']}"
    KINDS[case["kind"]]({key: value for key, value in case.items() if key != "name"})
