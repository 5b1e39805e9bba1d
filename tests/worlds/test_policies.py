import pytest
import torch

from prefopt.worlds import Policies, World, Worlds
from prefopt.worlds.policies import token_logps

SEEDS = (0, 1)
RATES = (0.05, 0.3)


def worlds(rank=None):
    return Worlds.of([World.draw(seed, num_prompts=3, depth=3, num_rows=4, rank=rank) for seed in SEEDS], SEEDS)


def expected_reward(stack):
    def objective(step, next_token_logps):
        logps = stack.tree.logps(next_token_logps)
        return -(logps.exp() * stack.reward.float()).sum(-1).mean(-1)

    return objective


@pytest.mark.parametrize("rank", [None, 2])
def test_policies_start_as_their_reference(rank):
    stack = worlds(rank)
    torch.testing.assert_close(
        Policies(stack, RATES, 10).logps(), stack.logps.expand(2, -1, -1, -1), atol=1e-5, rtol=1e-5
    )


def test_every_policy_learns_as_a_plain_table_under_adam_would():
    stack = worlds()
    together = Policies(stack, RATES, steps=20).train(expected_reward(stack), [5, 20])
    for trial, rate in enumerate(RATES):
        for seed in range(len(SEEDS)):
            table = stack.reference[seed].clone()
            distance = torch.zeros_like(table, requires_grad=True)
            optimizer = torch.optim.Adam([distance], lr=rate, eps=1e-12)
            kept = []
            for step in range(20):
                optimizer.param_groups[0]["lr"] = rate * (1 - step / 20)
                logps = stack.tree.logps(stack.tree.next_token_logps(table + distance))
                optimizer.zero_grad()
                (-(logps.exp() * stack.reward[seed]).sum(-1).mean()).backward()
                optimizer.step()
                if step + 1 in (5, 20):
                    kept.append(stack.tree.logps(stack.tree.next_token_logps(table + distance)).detach())
            torch.testing.assert_close(together[trial, seed], torch.stack(kept), atol=2e-3, rtol=2e-3)


def test_one_diverging_policy_leaves_the_others_alone():
    stack = worlds()
    objective = expected_reward(stack)
    alone = Policies(stack, RATES, steps=5).train(objective, [5])

    def poisoned(step, next_token_logps):
        factor = torch.ones(2, 2)
        factor[0, 0] = torch.nan
        return objective(step, next_token_logps) * factor

    found = Policies(stack, RATES, steps=5).train(poisoned, [5])
    assert found[0, 0].isnan().all()
    torch.testing.assert_close(found[1], alone[1])


def test_a_low_rank_ties_the_prompts_together():
    stack = worlds(rank=1)
    policies = Policies(stack, RATES, steps=30)
    policies.train(expected_reward(stack), [30])
    with torch.no_grad():
        moved = policies.next_token_logps() - stack.tree.next_token_logps(stack.reference.float())
    # What is learnt, up to each prefix's normalisation, is one table that prompts take in different parts.
    centred = moved[..., 1:, :] - moved[..., 1:, :].mean(-1, keepdim=True)
    values = torch.linalg.svdvals(centred.flatten(-2))
    assert (values[..., 1] < 1e-3 * values[..., 0]).all()


def test_how_much_each_prompt_takes_of_a_low_rank_is_learnt_too():
    stack = worlds(rank=1)
    shares = []
    for steps in (1, 30):
        policies = Policies(stack, RATES, steps=steps)
        policies.train(expected_reward(stack), [steps])
        with torch.no_grad():
            moved = policies.distances().flatten(-2)
        shares.append(torch.linalg.svd(moved).U[..., 0].abs())  # [T, S, P] of the one table
    assert (shares[0] - shares[1]).abs().amax(-1).min() > 0.01


def test_token_log_probs_are_found_by_prompt_and_completion():
    stack = worlds()
    table = stack.reference.expand(2, -1, -1, -1, -1)
    prompts, completions = torch.tensor([[0, 2], [1, 1]]), torch.tensor([[3, 0], [13, 5]])
    found = token_logps(stack.tree.positions, table, prompts, completions)
    for seed in range(2):
        for row in range(2):
            expected = stack.tree.token_logps(stack.reference[seed, prompts[seed, row]])[completions[seed, row]]
            assert found[1, seed, row].equal(expected)
