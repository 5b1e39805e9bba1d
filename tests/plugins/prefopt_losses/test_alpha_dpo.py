"""What makes alpha-DPO what it is: SimPO's margin, moved for each pair by its gap to the reference."""

import math

import pytest
import torch

import prefopt

REGISTRY = prefopt.load_registry()


def pairs(leads, gaps, length=1, state=None):
    """Pairs with these leads in log-prob per token and these gaps in log-ratio per token."""
    leads, gaps = torch.tensor(leads, dtype=torch.float64), torch.tensor(gaps, dtype=torch.float64)
    rejected, lengths = torch.full_like(leads, -50), torch.full_like(leads, length)
    return prefopt.PreferenceBatch.from_pairs(
        policy_chosen=length * leads - 50,
        policy_rejected=rejected,
        reference_chosen=length * (leads - gaps) - 50,
        reference_rejected=rejected,
        chosen_lengths=lengths,
        rejected_lengths=lengths,
        state=state,
    )


def softplus(x):
    return math.log1p(math.exp(x))


def test_margin_grows_with_the_gap():
    """Averages 1 and 2 after the update: the gaps 5 and -1 lie two deviations above and one below."""
    loss = REGISTRY.loss("alpha_dpo", beta=2.0, gamma=0.5, alpha=0.25, momentum=0.75)
    before = {"mean": (1 - 0.25 * 2) / 0.75, "std": (2 - 0.25 * 18**0.5) / 0.75}
    state = {name: torch.tensor(value, dtype=torch.float64) for name, value in before.items()}
    output = loss(pairs([1.0, 1.0], [5.0, -1.0], state=state))
    assert [value.item() for value in output.state.values()] == pytest.approx([1, 2], rel=1e-12)
    expected = [softplus(-2 * (1 - 0.5 - 0.25 * 2)), softplus(-2 * (1 - 0.5 + 0.25 * 1))]
    assert output.losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_gap_is_per_token():
    short, long = (REGISTRY.loss("alpha_dpo")(pairs([1.0, 2.0], [0.5, -0.5], length=length)) for length in (1, 8))
    assert short.losses.tolist() == pytest.approx(long.losses.tolist(), rel=1e-12)
    assert short.state["std"].item() == pytest.approx(long.state["std"].item(), rel=1e-12)


def test_averages_start_at_zero_so_that_the_first_z_is_large():
    """Gaps 1 and 3 against averages 0.2 and 0.1 sqrt 2, where a settled run would have 2 and sqrt 2."""
    output = REGISTRY.loss("alpha_dpo", beta=2.5, gamma=0.6, alpha=0.2)(pairs([1.0, 1.0], [1.0, 3.0]))
    z = [(gap - 0.2) / (0.1 * 2**0.5) for gap in (1, 3)]
    assert output.losses.tolist() == pytest.approx([softplus(-2.5 * (1 - 0.6 - 0.2 * x)) for x in z], rel=1e-12)


@pytest.mark.parametrize("gaps", [[3.0], [12.9] * 5])
def test_equal_gaps_leave_the_margin_at_gamma(gaps):
    """Without a spread there is no z; 12.9 five times has a mean that rounds."""
    losses = REGISTRY.loss("alpha_dpo", beta=2.5, gamma=0.6)(pairs([1.0] * len(gaps), gaps)).losses
    assert losses.tolist() == pytest.approx([softplus(-2.5 * (1 - 0.6))] * len(gaps), rel=1e-9)


def test_gamma_is_times_beta():
    """The margin of 2.5 x 0.6 is SimPO's 1.5."""
    batch = pairs([1.0, -1.0], [0.5, 2.0])
    alpha_dpo, simpo = REGISTRY.loss("alpha_dpo", alpha=0.0), REGISTRY.loss("simpo", beta=2.5, gamma=1.5)
    torch.testing.assert_close(alpha_dpo(batch).losses, simpo(batch).losses, rtol=1e-12, atol=0)


def test_z_is_a_constant_for_the_gradient():
    batch = pairs([1.0, 2.0], [0.5, -0.5])
    chosen = batch.chosen.policy.requires_grad_()
    output = REGISTRY.loss("alpha_dpo", beta=2.0)(batch)
    (slope,) = torch.autograd.grad(output.losses.sum(), chosen)
    assert slope.tolist() == pytest.approx((-2.0 * -(-output.losses.detach()).expm1()).tolist(), rel=1e-12)
