"""What ties the losses of the log-ratio gap to each other, beyond the identities they declare."""

from functools import partial

import pytest
import torch
from gap_pairs import losses, pairs, slopes

CHOSEN, REJECTED = [3.0, -7.0, 0.0, 40.0, -2.5], [-2.0, 4.0, 0.0, -30.0, -2.0]
PAIRS = pairs(CHOSEN, REJECTED, scores=([2.0, 5.0, 1.5, 9.0, 4.0], [1.0] * 5))
SWAPPED = pairs(REJECTED, CHOSEN)
of_the_gap_alone = pytest.mark.parametrize(
    "name", ["cdpo", "discopop", "dpo", "exo_pair", "ipo", "odpo", "r_dpo", "robust", "rso_hinge"]
)
tensor = partial(torch.tensor, dtype=torch.float64)


@of_the_gap_alone
def test_loss_of_the_gap_alone_pushes_as_it_pulls(name):
    chosen, rejected = slopes(name, PAIRS)
    assert any(chosen)
    assert chosen == [-slope for slope in rejected]


@of_the_gap_alone
def test_loss_of_the_gap_alone_is_the_same_wherever_the_gap_lies(name):
    moved = pairs([r + 64 for r in CHOSEN], [r + 64 for r in REJECTED], scores=([2.0, 5.0, 1.5, 9.0, 4.0], [1.0] * 5))
    assert losses(name, moved) == losses(name, PAIRS)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
def test_robust_is_dpo_both_ways_round(label_smoothing):
    """(1 - 2e) robust = (1 - e) dpo(chosen, rejected) - e dpo(rejected, chosen), in value and in slope."""
    e, own = label_smoothing, {"beta": 0.1, "label_smoothing": label_smoothing}
    given, swapped = (tensor(losses("dpo", batch, beta=0.1)) for batch in (PAIRS, SWAPPED))
    found = tensor(losses("robust", PAIRS, **own))
    torch.testing.assert_close((1 - 2 * e) * found, (1 - e) * given - e * swapped)
    given, swapped = (tensor(slopes("dpo", batch, beta=0.1)) for batch in (PAIRS, SWAPPED))
    found = tensor(slopes("robust", PAIRS, **own))
    torch.testing.assert_close((1 - 2 * e) * found, (1 - e) * given - e * swapped.flip(0))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
def test_conservative_is_dpo_both_ways_round(label_smoothing):
    e = label_smoothing
    given, swapped = (tensor(losses("dpo", batch)) for batch in (PAIRS, SWAPPED))
    found = tensor(losses("cdpo", PAIRS, label_smoothing=e))
    torch.testing.assert_close(found, (1 - e) * given + e * swapped)


@pytest.mark.parametrize(
    ("end", "near", "nearer"), [("forward_kl", 1 - 1e-4, 1 - 1e-6), ("reverse_kl", 1e-4, 1e-6)], ids=str
)
def test_alpha_divergence_ends_in_both_kl_divergences(end, near, nearer):
    """The distance shrinks as alpha approaches its end: by a hundred, being of first order."""
    batch = pairs([1.0, -2.0, 0.5], [-1.0, 0.5, 0.25])

    def distance(alpha, of):
        there = of("fdpo", batch, divergence=end)
        return (tensor(of("fdpo", batch, divergence="alpha", alpha=alpha)) - tensor(there)).abs().max().item()

    for of in (losses, slopes):
        assert 0 < distance(near, of) < 1e-3
        assert distance(nearer, of) == pytest.approx(distance(near, of) / 100, rel=1e-2)


def test_dpop_and_minor_dpo_agree_with_dpo_where_neither_changes_it():
    batch = pairs([1.0, 2.0], [3.0, 0.5])
    for name in ("dpop", "minor_dpo"):
        assert losses(name, batch, beta=0.1) == losses("dpo", batch, beta=0.1)
        assert slopes(name, batch, beta=0.1) == slopes("dpo", batch, beta=0.1)
