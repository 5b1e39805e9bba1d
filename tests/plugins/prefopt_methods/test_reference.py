import torch
from prefopt_methods.reference import Reference
from small_worlds import BUDGET, assert_log_probs_of_policies, worlds

from prefopt.worlds import exact


def test_every_trial_is_the_reference():
    some = worlds()
    found = Reference().policies([{}, {}], some, BUDGET)
    assert_log_probs_of_policies(found, 2, some)
    assert torch.equal(found[0], found[1])
    assert exact.kl(found, some.logps[:, None]).abs().max() == 0


def test_reference_has_nothing_to_tune_and_knows_no_reward():
    assert not Reference.tune
    assert not Reference.knows_reward
