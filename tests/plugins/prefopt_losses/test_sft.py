"""What makes the three SFT reductions differ."""

import pytest
import torch
from random_batches import REGISTRY, Example


def demonstrations(nll):
    inputs = {
        "policy_chosen": torch.tensor([-8.0, -3.0], dtype=torch.float64),
        "chosen_lengths": torch.tensor([4, 1]),
    }
    return Example(REGISTRY.loss("sft", nll=nll), "demonstrations", inputs)


def pairs(nll):
    rejected = {
        "policy_rejected": torch.tensor([-1.0, -2.0], dtype=torch.float64),
        "rejected_lengths": torch.tensor([2, 2]),
    }
    demonstration = demonstrations(nll)
    return Example(demonstration.loss, "pairs", {**demonstration.inputs, **rejected})


ROWS = pytest.mark.parametrize("rows", [demonstrations, pairs])
LOSSES = {"token": [8.0, 3.0], "sequence": [2.0, 3.0], "sum": [8.0, 3.0]}
SLOPES = {"token": [-1.0, -1.0], "sequence": [-0.25, -1.0], "sum": [-1.0, -1.0]}


@ROWS
@pytest.mark.parametrize("nll", LOSSES)
def test_losses_are_sums_or_means_per_sequence(rows, nll):
    assert rows(nll).losses().tolist() == LOSSES[nll]
    assert rows(nll).closed_form()["policy_chosen"].tolist() == SLOPES[nll]


@ROWS
def test_token_reduction_divides_by_the_tokens_of_the_batch(rows):
    values, normaliser = (example := rows("token")).loss(example.batch()).terms["nll"]
    assert (values.tolist(), normaliser.tolist()) == ([8.0, 3.0], [4.0, 1.0])


@ROWS
@pytest.mark.parametrize("nll", ["sequence", "sum"])
def test_other_reductions_divide_by_rows(rows, nll):
    assert not (example := rows(nll)).loss(example.batch()).terms


def test_token_reduction_is_the_default():
    assert REGISTRY.loss("sft").nll == "token"


@pytest.mark.parametrize("nll", LOSSES)
def test_rejected_side_of_pairs_gets_no_gradient(nll):
    example = pairs(nll)
    rejected = example.inputs["policy_rejected"].clone().requires_grad_()
    chosen = example.inputs["policy_chosen"].clone().requires_grad_()
    example.losses(policy_chosen=chosen, policy_rejected=rejected).sum().backward()
    assert rejected.grad is None
    assert example.loss.gradient(example.batch()).policy_rejected is None


def test_reward_is_the_log_prob():
    example = demonstrations("token")
    assert example.loss.reward(example.batch().chosen).tolist() == [-8.0, -3.0]
