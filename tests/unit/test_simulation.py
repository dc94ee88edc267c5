"""The routing policy is ahead of the simpler ones on goodput, in a short run of the simulation."""

import pytest

from benchmarks.routing import POLICIES, compare


@pytest.mark.parametrize("load", [0.8, 1.0, 1.2])
def test_our_policy_is_ahead_of_all_four_on_goodput(load: float) -> None:
    """Every policy gets the same arrivals, so nothing but the choice differs."""
    results = compare([load], seconds=120, seed=7)[load]
    ours = results.pop("phi-serve").goodput
    assert len(results) == len(POLICIES) - 1
    assert {policy: result.goodput < ours for policy, result in results.items()} == dict.fromkeys(results, True)
