"""Every registered loss, stacked, against the loss called by itself: one policy, one batch, plain autograd."""

import pytest
import torch

import prefopt
from prefopt.bench.columns import columns, prepared
from prefopt.bench.losses import LossMethod
from prefopt.bench.stacked import StackedLoss, _tokens
from prefopt.bench.trials import draw_trials
from prefopt.method import Budget
from prefopt.worlds import World, Worlds

REGISTRY = prefopt.load_registry()
SEEDS = (0, 1)
WORLDS = Worlds.of([World.draw(seed, num_prompts=4, depth=4, num_rows=24) for seed in SEEDS], SEEDS)
NUM_TRIALS = 3


def table(seed):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(NUM_TRIALS, *WORLDS.reference.shape, generator=generator, dtype=torch.float64)
    return WORLDS.tree.next_token_logps(WORLDS.reference + 0.5 * noise).requires_grad_()


def one_at_a_time(losses, steps):
    """[T, S] objective and gradient of the last step, each trial and seed by the loss's own call."""
    needs = losses[0].needs
    rows = [prepared(own, needs) for own in WORLDS.rows]
    objectives, leaf = torch.zeros(NUM_TRIALS, len(SEEDS), dtype=torch.float64), table(steps - 1)
    for trial, loss in enumerate(losses):
        for seed in range(len(SEEDS)):
            state = loss.initial_state()
            for step in range(steps):
                policy = leaf if step == steps - 1 else table(step).detach()
                found = columns(WORLDS, rows, policy, needs)
                own = {
                    name: _tokens({key: part[trial, seed] for key, part in value.items()})
                    if isinstance(value, dict)
                    else value[trial, seed]
                    for name, value in found.items()
                }
                ids = tuple(range(len(rows[seed])))
                batch = getattr(prefopt.PreferenceBatch, f"from_{rows[seed].kind}")(
                    **own, state=dict(state) or None, draws=prefopt.Draws(ids, step=step)
                )
                output = loss(batch)
                state = output.state
            value = sum(
                (batch.weights * values).sum() / (batch.weights * normaliser).sum()
                for values, normaliser in output.all_terms().values()
            )
            objectives[trial, seed] = value
    return objectives, torch.autograd.grad(objectives.sum(), leaf)[0]


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_stacked_trials_and_seeds_are_the_loss_called_by_itself(name):
    method = LossMethod(REGISTRY.losses[name])
    losses = method.losses(draw_trials(method.tune, NUM_TRIALS))
    needs = losses[0].needs
    rows = [prepared(own, needs) for own in WORLDS.rows]
    steps = 2 if needs.state or needs.coupled else 1

    stacked = StackedLoss(losses)
    for step in range(steps):
        leaf = table(step)
        found = stacked(rows[0].kind, columns(WORLDS, rows, leaf, needs), step)
    gradient = torch.autograd.grad(found.sum(), leaf)[0]

    expected, expected_gradient = one_at_a_time(losses, steps)
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)


def test_most_losses_are_called_once_for_all_trials():
    stacked = set()
    for name, loss_class in REGISTRY.losses.items():
        method = LossMethod(loss_class)
        loss = StackedLoss(method.losses(draw_trials(method.tune, 2)))
        needs = loss_class.needs
        rows = [prepared(own, needs) for own in WORLDS.rows]
        loss(rows[0].kind, columns(WORLDS, rows, table(0)[:2], needs), 0)
        stacked |= {name} if loss._at_once else set()
    assert {"dpo", "ipo", "kto", "bco", "beta_dpo", "simpo", "orpo", "sft"} <= stacked
    assert not {"tdpo1", "sampo", "wpo"} & stacked  # tokens of uneven completions


def test_training_reaches_what_the_loss_is_minimal_at():
    # IPO's minimum over pairs that were never contradicted: log-ratio gaps of 1 / (2 tau)
    stack = Worlds.of([World.draw(0, num_prompts=1, num_tokens=2, depth=1, num_rows=1)], [0])
    logps = LossMethod(REGISTRY.losses["ipo"]).policies(
        [{"learning_rate": 0.1, "tau": 0.25}], stack, Budget(steps=400, batch_size=None, checkpoints=(400,))
    )
    chosen, rejected = stack.rows[0].completions[0]
    ratio = logps[0, 0, 0, 0] - stack.logps[0, 0]
    assert (ratio[chosen] - ratio[rejected]).item() == pytest.approx(2.0, abs=1e-3)


def test_minibatches_go_through_every_row_once_an_epoch():
    from prefopt.bench.losses import _order

    order = _order(10, Budget(steps=6, batch_size=5, checkpoints=(6,)), seed=3)
    for epoch in range(3):
        assert sorted(order[2 * epoch : 2 * epoch + 2].flatten().tolist()) == list(range(10))
    assert not order[:2].equal(order[2:4])


def test_the_same_trials_and_worlds_give_the_same_policies():
    method, budget = LossMethod(REGISTRY.losses["dpo"]), Budget(20, 8, (10, 20))
    trials = draw_trials(method.tune, 4)
    assert method.policies(trials, WORLDS, budget).equal(method.policies(trials, WORLDS, budget))


def test_a_hyper_parameter_out_of_range_is_named():
    with pytest.raises(prefopt.ConfigError, match="beta = -1.0"):
        LossMethod(REGISTRY.losses["dpo"]).losses([{"learning_rate": 0.1, "beta": -1.0}])
