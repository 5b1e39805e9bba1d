import numpy as np
import pytest
import torch

import prefopt
from prefopt.bench.exact import measure
from prefopt.bench.losses import LossMethod
from prefopt.method import Budget
from prefopt.worlds import World, exact

REGISTRY = prefopt.load_registry()
SMALL = {"num_prompts": 3, "depth": 3, "num_rows": 32}
BUDGET = Budget(steps=4, batch_size=8, checkpoints=(2, 4))


class Given(prefopt.Method):
    """Policies that the test chose."""

    name = "given"

    def __init__(self, logps):
        self.logps = logps

    def policies(self, trials, worlds, budget):
        return self.logps


def measured(task, method, trials=({"learning_rate": 0.1},), seeds=(0, 1), **knobs):
    built = REGISTRY.task(task)
    return measure(built, built.settings({**SMALL, **knobs}), method, trials, seeds, BUDGET)


def test_every_metric_by_the_definition():
    task = REGISTRY.task("bradley_terry")
    world = task.build(5, **task.settings(SMALL))
    torch.manual_seed(0)
    logps = torch.log_softmax(torch.randn(1, 1, 1, *world.reward.shape, dtype=torch.float64), -1)
    found = measured("bradley_terry", Given(logps), seeds=(5,))
    policy, rows = logps[0, 0, 0], world.rows(5)
    metrics = {name: value[0, 0, 0] for name, value in found.metrics.items()}
    assert metrics["reward"] == pytest.approx((policy.exp() * world.reward).sum(-1).mean().item())
    assert metrics["kl"] == pytest.approx((policy.exp() * (policy - world.logps)).sum(-1).mean().item())
    assert metrics["forward_kl"] == pytest.approx((world.logps.exp() * (world.logps - policy)).sum(-1).mean().item())
    wins = torch.einsum("pi,pij,pj->p", policy.exp(), world.preferences(), world.logps.exp()).mean()
    assert metrics["win_rate"] == pytest.approx(wins.item())
    for name, place in (("chosen_log_ratio", 0), ("rejected_log_ratio", 1)):
        ratios = (policy - world.logps)[rows.prompts, rows.completions[:, place]]
        assert metrics[name] == pytest.approx(ratios.mean().item())
    assert "exploitability" not in metrics


def test_the_reference_has_no_kl_and_wins_half():
    found = measured("bradley_terry", REGISTRY.methods["reference"](), trials=({},))
    for name, expected in {"kl": 0.0, "forward_kl": 0.0, "win_rate": 0.5, "chosen_log_ratio": 0.0}.items():
        np.testing.assert_allclose(found.metrics[name], expected, atol=1e-9)
    np.testing.assert_allclose(found.metrics["reward"][0, :, 0], found.reference_reward)


def test_only_tasks_with_a_table_of_preferences_have_an_exploitability():
    found = measured("intransitive", REGISTRY.methods["reference"](), trials=({},))
    assert (found.metrics["exploitability"] > 0).all()


def test_labels_have_a_displacement_of_thumbs_up_and_of_thumbs_down():
    found = measured("imbalanced_labels", LossMethod(REGISTRY.losses["sft"]), trials=({"learning_rate": 0.3},))
    assert (found.metrics["chosen_log_ratio"][..., -1] > 0).all()


def test_the_frontier_is_the_worlds():
    found = measured("bradley_terry", REGISTRY.methods["reference"](), trials=({},))
    world = World.draw(1, **SMALL)
    expected = exact.frontier(world.logps, world.reward, torch.from_numpy(found.optimum_kl))
    np.testing.assert_allclose(found.optimum_reward[1], expected)
    assert found.optimum_kl[-1] == found.max_kl == world.max_kl


def test_a_policy_that_diverged_is_not_a_number_and_the_others_are():
    logps = torch.full((2, 1, 1, 3, 14), -torch.tensor(14.0).log(), dtype=torch.float64)
    logps[0] = torch.nan
    found = measured("bradley_terry", Given(logps), trials=({}, {}), seeds=(0,))
    assert np.isnan(found.metrics["reward"][0]).all()
    assert np.isfinite(found.metrics["reward"][1]).all()
