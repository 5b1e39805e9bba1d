import pytest
import torch
from scipy.optimize import minimize

from prefopt.worlds import World, exact

WORLD = World.draw(3, num_prompts=2, depth=3)
REFERENCE, REWARD = WORLD.logps, WORLD.reward


def random_policies(count):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, *REFERENCE.shape, generator=generator, dtype=torch.float64)
    scale = torch.rand(count, 1, 1, generator=generator, dtype=torch.float64) * 3
    return torch.log_softmax(REFERENCE + scale * (REWARD + noise), dim=-1)


def test_kl_and_expectation_by_hand():
    policy, other = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    by_hand = 0.25 * torch.tensor(0.5).log() + 0.75 * torch.tensor(1.5).log()
    torch.testing.assert_close(exact.kl(policy.log(), other.log()), by_hand)
    assert exact.expectation(policy.log(), torch.tensor([4.0, 8.0])) == 7.0


def test_kl_of_a_policy_that_never_does_something_is_finite_and_the_other_way_round_infinite():
    sure, even = torch.tensor([0.0, -torch.inf]), torch.tensor([0.5, 0.5]).log()
    assert exact.kl(sure, even) == pytest.approx(0.693147, abs=1e-6)
    assert exact.kl(even, sure) == torch.inf


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0])
def test_no_policy_beats_the_optimum_in_reward_less_beta_kl(beta):
    def value(logps):
        return exact.expectation(logps, REWARD).mean(-1) - beta * exact.kl(logps, REFERENCE).mean(-1)

    best = value(exact.optimum(REFERENCE, REWARD, beta))
    assert (value(random_policies(300)) <= best + 1e-12).all()

    # and a numerical optimiser that knows nothing of the closed form comes to the same
    def negative(logits):
        leaf = torch.from_numpy(logits).requires_grad_()
        loss = -value(torch.log_softmax(leaf.view_as(REFERENCE), -1))
        loss.backward()
        return loss.item(), leaf.grad.numpy()

    found = minimize(negative, REFERENCE.flatten().numpy(), jac=True, tol=1e-12)
    assert -found.fun == pytest.approx(best.item(), abs=1e-6)


def test_no_policy_lies_above_the_frontier():
    policies = random_policies(300)
    kl = exact.kl(policies, REFERENCE).mean(-1)
    bound = exact.frontier(REFERENCE, REWARD, kl)
    assert (exact.expectation(policies, REWARD).mean(-1) <= bound + 1e-9).all()


def test_the_optimum_lies_on_the_frontier():
    optimum = exact.optimum(REFERENCE, REWARD, 0.7)
    kl = exact.kl(optimum, REFERENCE).mean(-1, keepdim=True)
    torch.testing.assert_close(
        exact.frontier(REFERENCE, REWARD, kl)[0], exact.expectation(optimum, REWARD).mean(), atol=1e-9, rtol=0
    )


def test_the_frontier_begins_at_the_reference_and_ends_at_the_greedy_policy():
    ends = exact.frontier(REFERENCE, REWARD, torch.tensor([0.0, 50.0], dtype=torch.float64))
    torch.testing.assert_close(ends[0], exact.expectation(REFERENCE, REWARD).mean())
    torch.testing.assert_close(ends[1], REWARD.amax(-1).mean(), atol=1e-4, rtol=0)


def test_exploitability_by_enumeration():
    policy, preference = random_policies(1)[0], WORLD.preferences()
    chance = policy.exp()
    for prompt in range(len(policy)):
        best = max(
            sum(preference[prompt, i, j] * chance[prompt, j] for j in range(len(chance[prompt]))).item()
            for i in range(len(chance[prompt]))
        )
        assert exact.exploitability(policy, preference)[prompt].item() == pytest.approx(best - 0.5)


def test_rock_paper_scissors_is_unexploitable_only_in_equal_parts():
    preference = torch.tensor([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    assert exact.exploitability(torch.full((3,), 1 / 3).log(), preference) == pytest.approx(0.0, abs=1e-6)
    assert exact.exploitability(torch.tensor([0.5, 0.25, 0.25]).log(), preference) == pytest.approx(0.125)
