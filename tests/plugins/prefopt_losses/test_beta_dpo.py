"""What makes beta-DPO what it is: a beta that follows the batch, and a filter that draws pairs by their gap."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(gaps, draws=None, **others):
    """Pairs with these gaps of log-ratios."""
    gaps = torch.tensor(gaps, dtype=torch.float64)
    level, lengths = torch.full_like(gaps, -50), torch.ones_like(gaps)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=gaps - 50,
        policy_rejected=level,
        reference_chosen=level,
        reference_rejected=level,
        chosen_lengths=lengths,
        rejected_lengths=lengths,
        draws=draws,
        **others,
    )


def batch_beta(batch, **hyperparameters):
    return REGISTRY.loss("beta_dpo", **hyperparameters)(batch).metrics["batch_beta"][0].item()


def kept(batch, **hyperparameters):
    return REGISTRY.loss("beta_dpo", **hyperparameters)(batch).metrics["kept"].tolist()


def test_beta_follows_the_mean_gap():
    """After one batch the moving average is a tenth of its mean 4, which lies 3.6 above."""
    output = REGISTRY.loss("beta_dpo", beta=0.1, alpha=0.6, keep=1.0)(pairs([2.0, 6.0]))
    beta = 0.1 * (1 + 0.6 * 3.6)
    assert output.metrics["batch_beta"].tolist() == pytest.approx([beta, beta], rel=1e-12)
    assert output.losses.tolist() == pytest.approx([math.log1p(math.exp(-beta * gap)) for gap in (2, 6)], rel=1e-12)


def test_gap_is_not_times_beta():
    batch = pairs([2.0, 6.0])
    assert batch_beta(batch, beta=1.0) == pytest.approx(10 * batch_beta(batch, beta=0.1), rel=1e-12)


def test_beta_never_falls_below_a_thousandth():
    assert batch_beta(pairs([-200.0, -300.0])) == pytest.approx(1e-3, rel=1e-12)


@pytest.mark.parametrize("num_rows", [1, 2, 5, 10, 11])
@pytest.mark.parametrize("keep", [0.1, 0.7, 0.8, 1.0])
def test_whole_pairs_are_kept_and_at_least_one(num_rows, keep):
    found = kept(pairs([float(row) for row in range(num_rows)]), keep=keep)
    assert set(found) <= {0.0, 1.0}
    assert sum(found) == max(1, round(keep * 10) * num_rows // 10)


def test_mean_runs_over_the_pairs_kept():
    output = REGISTRY.loss("beta_dpo", keep=0.5)(pairs([1.0, 2.0, 3.0, 4.0]))
    values, normaliser = output.terms["preference"]
    assert normaliser.equal(output.metrics["kept"])
    assert normaliser.sum() == 2
    assert values[normaliser == 0].tolist() == [0, 0]


def test_pairs_are_drawn_with_the_weights_of_their_gaps():
    """One of three, over many steps: as often as its normal density, seen from the moving averages, is high."""
    gaps, num_steps = [-1.0, 0.5, 2.0], 2000
    state = {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)}
    count = torch.zeros(3)
    for step in range(num_steps):
        batch = pairs(gaps, prefopt.Draws((0, 1, 2), seed=5, step=step), state=state)
        output = REGISTRY.loss("beta_dpo", keep=0.3)(batch)
        count += output.metrics["kept"]
    mean, std = (output.state[name].item() for name in ("mean", "std"))
    weights = torch.tensor([math.exp(-(((gap - mean) / std) ** 2) / 2) for gap in gaps])
    expected = weights / weights.sum()
    assert (count / num_steps - expected).abs().max() < 4 * (0.25 / num_steps) ** 0.5
    assert expected.max() > 1.5 * expected.min()


def test_choice_goes_with_the_row_and_not_with_its_place():
    gaps, order = [1.0, 2.0, 3.0, 4.0], [2, 0, 3, 1]
    for step in range(20):
        straight = kept(pairs(gaps, prefopt.Draws((10, 11, 12, 13), step=step)), keep=0.5)
        ids = tuple(10 + row for row in order)
        moved = kept(pairs([gaps[row] for row in order], prefopt.Draws(ids, step=step)), keep=0.5)
        assert moved == [straight[row] for row in order]


def test_averages_start_at_zero_and_move_by_a_tenth():
    loss = REGISTRY.loss("beta_dpo")
    first = loss(pairs([1.0, 3.0]))
    second = loss(pairs([5.0, 5.0], state=first.state))
    assert [value.item() for value in first.state.values()] == pytest.approx([0.2, 0.1 * 2**0.5], rel=1e-12)
    assert [value.item() for value in second.state.values()] == pytest.approx([0.18 + 0.5, 0.09 * 2**0.5], rel=1e-12)


def test_equal_gaps_are_equally_likely():
    """Their standard deviation is 0, although their mean rounds."""
    gaps = [12.9] * 5
    steps = [kept(pairs(gaps, prefopt.Draws(tuple(range(5)), step=step)), keep=0.2) for step in range(40)]
    assert {row.index(1.0) for row in steps} == set(range(5))


def test_where_every_density_underflows_the_nearest_pair_is_kept():
    """Almost a million deviations from the average, e^-4e11; the second is ten deviations nearer."""
    assert kept(pairs([100.002, 100.0, 100.001]), keep=0.3) == [0, 1, 0]


def test_heavy_row_on_the_edge_is_kept_in_part():
    """Of five copies four are kept, whichever row is the heavy one."""
    for step in range(20):
        draws = prefopt.Draws((0, 1), step=step)
        found = kept(pairs([1.0, 2.0], draws, weights=torch.tensor([2.0, 3.0])), keep=0.8)
        assert found in ([1.0, pytest.approx(2 / 3)], [0.5, 1.0])
