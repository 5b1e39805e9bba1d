"""What makes SamPO SamPO: equally many tokens of both completions, drawn at random."""

import math
from dataclasses import replace

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()
LOSS = REGISTRY.loss("sampo", beta=0.5)


def tokens(lengths, seed):
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    policy, reference = -torch.rand(2, sum(lengths), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return prefopt.Tokens(policy, offsets, reference)


def batch(chosen, rejected, **draws):
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=chosen.sum(chosen.policy),
        policy_rejected=rejected.sum(rejected.policy),
        reference_chosen=chosen.sum(chosen.reference),
        reference_rejected=rejected.sum(rejected.reference),
        chosen_lengths=chosen.lengths,
        rejected_lengths=rejected.lengths,
        chosen_tokens=chosen,
        rejected_tokens=rejected,
        draws=prefopt.Draws(**{"row_ids": tuple(range(len(chosen.lengths))), **draws}),
    )


def kept(rows):
    """Which tokens of each side have a gradient, as one tuple of bools per completion."""
    gradient = LOSS.gradient(rows)
    sides = (gradient.chosen_tokens, rows.chosen.tokens), (gradient.rejected_tokens, rows.rejected.tokens)
    return [[tuple(row.tolist()) for row in (slope != 0).split(side.lengths.tolist())] for slope, side in sides]


def test_longer_completion_gives_as_many_tokens_as_the_shorter_one_has():
    chosen, rejected = kept(batch(tokens([7, 3, 4, 1], seed=1), tokens([3, 8, 4, 9], seed=2)))
    assert [sum(row) for row in chosen] == [sum(row) for row in rejected] == [3, 3, 4, 1]
    assert [len(row) for row in chosen] == [7, 3, 4, 1]


def test_tokens_kept_are_those_of_the_lowest_numbers_of_the_sides_own_stream():
    rows = batch(tokens([20, 9], seed=1), tokens([9, 20], seed=2), row_ids=(11, 4), seed=3, step=5)
    lowest = [
        set(rows.draws.uniform([20, 20], stream=stream)[20 * row : 20 * row + 20].argsort()[:9].tolist())
        for row, stream in ((0, 0), (1, 1))
    ]
    chosen, rejected = kept(rows)
    assert chosen[0] == tuple(place in lowest[0] for place in range(20))
    assert rejected[1] == tuple(place in lowest[1] for place in range(20))


def test_loss_is_dpos_over_the_kept_tokens_of_policy_and_reference_alike():
    rows = batch(tokens([6], seed=1), tokens([2], seed=2))
    ((chosen,), (rejected,)) = kept(rows)
    sums = [
        (side.policy - side.reference)[torch.tensor(mask)].sum().item()
        for side, mask in ((rows.chosen.tokens, chosen), (rows.rejected.tokens, rejected))
    ]
    assert all(rejected)
    assert LOSS(rows).losses.item() == pytest.approx(math.log1p(math.exp(-0.5 * (sums[0] - sums[1]))), rel=1e-12)


def test_tokens_kept_go_with_the_row_id_and_not_with_the_place():
    chosen, rejected = tokens([9, 9, 9], seed=1), tokens([4, 4, 4], seed=2)
    first = kept(batch(chosen, rejected, row_ids=(5, 6, 7)))[0]
    turned = kept(batch(chosen, rejected, row_ids=(7, 5, 6)))[0]
    alone = kept(batch(tokens([9], seed=1), tokens([4], seed=2), row_ids=(6,)))[0]
    assert len(set(first)) == 3
    assert turned == [first[2], first[0], first[1]]
    assert alone == [first[1]]


@pytest.mark.parametrize("changed", [{"seed": 1}, {"step": 1}])
def test_another_seed_or_step_keeps_other_tokens(changed):
    rows = batch(tokens([20] * 5, seed=1), tokens([9] * 5, seed=2))
    again = replace(rows, draws=replace(rows.draws, **changed))
    assert not set(kept(rows)[0]) & set(kept(again)[0])


def test_every_token_has_the_same_chance():
    """Of 3000 rows each of 5 places is kept in 2 / 5, give or take 4 standard deviations."""
    chosen, _ = kept(batch(tokens([5] * 3000, seed=1), tokens([2] * 3000, seed=2)))
    shares = torch.tensor(chosen).double().mean(0)
    assert shares.tolist() == pytest.approx([0.4] * 5, abs=4 * math.sqrt(0.4 * 0.6 / 3000))
