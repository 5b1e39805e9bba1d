"""What makes the three SFT reductions differ."""

import pytest
import torch
from truth import REGISTRY

from prefopt.testing import Case

POLICY, LENGTHS = torch.tensor([-8.0, -3.0], dtype=torch.float64), torch.tensor([4, 1])


def demonstrations(nll):
    return Case(REGISTRY.loss("sft", nll=nll), "demonstrations", {"policy": POLICY, "lengths": LENGTHS})


def pairs(nll):
    tensors = {
        "policy_chosen": POLICY,
        "chosen_lengths": LENGTHS,
        "policy_rejected": torch.tensor([-1.0, -2.0], dtype=torch.float64),
        "rejected_lengths": torch.tensor([2, 2]),
    }
    return Case(REGISTRY.loss("sft", nll=nll), "pairs", tensors)


ROWS = pytest.mark.parametrize("rows", [demonstrations, pairs])
LOSSES = {"token": [8.0, 3.0], "sequence": [2.0, 3.0], "sum": [8.0, 3.0]}
SLOPES = {"token": [-1.0, -1.0], "sequence": [-0.25, -1.0], "sum": [-1.0, -1.0]}


@ROWS
@pytest.mark.parametrize("nll", LOSSES)
def test_losses_are_sums_or_means_per_sequence(rows, nll):
    assert rows(nll).output().losses.tolist() == LOSSES[nll]
    assert rows(nll).closed_form()["policy_chosen"].tolist() == SLOPES[nll]


@ROWS
def test_token_reduction_divides_by_the_tokens_of_the_batch(rows):
    values, normaliser = (case := rows("token")).loss(case.batch()).terms["nll"]
    assert (values.tolist(), normaliser.tolist()) == ([8.0, 3.0], [4.0, 1.0])


@ROWS
@pytest.mark.parametrize("nll", ["sequence", "sum"])
def test_other_reductions_divide_by_rows(rows, nll):
    assert not (case := rows(nll)).loss(case.batch()).terms


def test_token_reduction_is_the_default():
    assert REGISTRY.loss("sft").nll == "token"


@pytest.mark.parametrize("nll", LOSSES)
def test_rejected_side_of_pairs_gets_no_gradient(nll):
    case = pairs(nll)
    rejected = case.tensors["policy_rejected"].clone().requires_grad_()
    chosen = case.tensors["policy_chosen"].clone().requires_grad_()
    case.output(policy_chosen=chosen, policy_rejected=rejected).losses.sum().backward()
    assert rejected.grad is None
    assert case.loss.gradient(case.batch()).policy_rejected is None


def test_reward_is_the_log_prob():
    case = demonstrations("token")
    assert case.loss.reward(case.batch().chosen).tolist() == [-8.0, -3.0]
