"""In a well-specified world DPO learns pi_ref exp(r / beta) / Z: equations 4 to 7 of the paper."""

import numpy as np
import pytest
import torch

import prefopt
from prefopt.bench.losses import LossMethod
from prefopt.bench.statistics import upper_hull
from prefopt.method import Budget
from prefopt.worlds import World, Worlds, exact

DPO = LossMethod(prefopt.load_registry().losses["dpo"])
SEEDS = (0, 1)
SMALL = {"num_prompts": 3, "depth": 3}


def test_dpo_on_the_expected_loss_is_the_optimum_of_its_beta_and_its_frontier_the_best():
    worlds = Worlds.of([World.draw(seed, **SMALL).enumerated() for seed in SEEDS], SEEDS)
    betas = np.geomspace(0.15, 4.0, 12)
    trials = [{"learning_rate": 0.3, "beta": float(beta)} for beta in betas]
    logps = DPO.policies(trials, worlds, Budget(500, None, (500,)))[:, :, 0]
    for beta, learnt in zip(betas, logps, strict=True):
        if beta > 0.3:  # below, the losses' slopes are small and the last bit takes longer
            optimum = exact.optimum(worlds.logps, worlds.reward, float(beta))
            assert exact.kl(learnt, optimum).max() < 1e-3

    reference = exact.expectation(worlds.logps, worlds.reward).mean(-1)
    kl = exact.kl(logps, worlds.logps).mean(-1)
    gain = exact.expectation(logps, worlds.reward).mean(-1) - reference
    max_kl = kl.amax().item()
    grid = torch.linspace(0, max_kl, 201, dtype=torch.float64)
    best = exact.frontier(worlds.logps, worlds.reward, grid) - reference[:, None]
    ratio = upper_hull(kl.T.numpy(), gain.T.numpy()).area(max_kl) / np.trapezoid(best.numpy(), grid.numpy())
    assert (ratio >= 0.98).all()
    assert (ratio <= 1.0 + 1e-3).all()


def test_dpo_on_samples_approaches_the_optimum_as_data_grow():
    distances = []
    for num_rows in (1_000, 8_000, 64_000):
        worlds = Worlds.of([World.draw(seed, num_rows=num_rows, **SMALL) for seed in SEEDS], SEEDS)
        trials = [{"learning_rate": 0.1, "beta": 1.0}]
        logps = DPO.policies(trials, worlds, Budget(300, min(num_rows, 4096), (300,)))[0, :, 0]
        optimum = exact.optimum(worlds.logps, worlds.reward, 1.0)
        distances.append(exact.kl(logps, optimum).mean().item())
    assert distances[2] < 0.01
    assert distances[0] > 3 * distances[1] > 9 * distances[2]


@pytest.mark.parametrize("name", ["sft", "ipo"])
def test_a_loss_with_another_optimum_does_not_get_there(name):
    # so that the tests above can fail
    worlds = Worlds.of([World.draw(0, **SMALL).enumerated()], [0])
    method = LossMethod(prefopt.load_registry().losses[name])
    trial = {"learning_rate": 0.1} | ({"tau": 1.0} if name == "ipo" else {})
    logps = method.policies([trial], worlds, Budget(300, None, (300,)))[0, 0, 0]
    assert exact.kl(logps, exact.optimum(worlds.logps[0], worlds.reward[0], 1.0)).mean() > 0.02
