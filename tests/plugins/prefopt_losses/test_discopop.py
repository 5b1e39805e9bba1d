"""What makes DiscoPOP DiscoPOP: logistic below, exponential above, and a dip between."""

import math

import pytest
import torch
from gap_pairs import losses, pairs

from prefopt import ConfigError, PreferenceBatch, get_loss


def test_loss_blends_the_logistic_and_the_exponential_one():
    m = 1 / (1 + math.exp(-2.0))
    expected = (1 - m) * math.log1p(math.exp(-0.2)) + m * math.exp(-0.2)
    assert losses("discopop", pairs([3.0], [1.0]), beta=0.1, tau=0.1) == pytest.approx([expected], rel=1e-12)


def test_loss_has_a_dip_below_zero_and_a_peak_above():
    dip, middle, peak = losses("discopop", pairs([-2.0, 0.0, 2.0], [0.0] * 3))
    assert dip < middle < peak
    assert middle == pytest.approx((math.log(2) + 1) / 2, rel=1e-12)


def test_authors_modulation_is_tau_equal_to_beta():
    batch = pairs([3.0, -4.0], [1.0, 2.0])
    modulation = torch.sigmoid(batch.gap)
    margin = 0.3 * batch.gap
    theirs = (1 - modulation) * torch.log1p((-margin).exp()) + modulation * (-margin).exp()
    assert losses("discopop", batch, beta=0.3, tau=0.3) == pytest.approx(theirs.tolist(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_loss_of_a_very_wrong_pair_is_its_margin_and_not_nan(dtype):
    """0 * infinity in TRL below -88 in float32."""
    policy = torch.tensor([-89.0, -2048.0], dtype=dtype, requires_grad=True)
    zero, one = torch.zeros(2, dtype=dtype), torch.ones(2)
    batch = PreferenceBatch.from_pairs(
        policy_chosen=policy,
        policy_rejected=zero,
        reference_chosen=zero,
        reference_rejected=zero,
        chosen_lengths=one,
        rejected_lengths=one,
    )
    found = get_loss("discopop", beta=1.0)(batch).losses
    found.sum().backward()
    assert found.tolist() == [89, 2048]
    assert policy.grad.tolist() == [-1, -1]


def test_temperature_beyond_one_is_refused():
    with pytest.raises(ConfigError, match=r"tau = 1\.5; it must be a number greater than 0 and at most 1"):
        get_loss("discopop", tau=1.5)
