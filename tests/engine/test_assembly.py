from __future__ import annotations

import torch

import prefopt
from prefopt.data.row import Completion, Row
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import TokenLogps

REGISTRY = prefopt.load_registry()


def ranking(number, scores, lengths, **more):
    own = tuple(
        Completion((7,) * length, (True,) * length, score) for score, length in zip(scores, lengths, strict=True)
    )
    return Row("rankings", "random", number, (1, 2), own, **more)


def token_logps(assembly):
    lengths = tuple(own.num_scored for _, own in assembly.slots)
    return TokenLogps(-torch.arange(1.0, sum(lengths) + 1), lengths)


def test_rankings_of_unequal_length_stand_side_by_side():
    loss = REGISTRY.loss("rrhf")
    assembly = Assembly.of([ranking(1, [0.5, 2.0], [1, 2]), ranking(2, [3.0, 1.0, 2.0], [1, 1, 2], weight=2.0)], loss)
    batch = assembly.batch(token_logps(assembly), None, loss)
    assert batch.kind == "rankings"
    assert batch.completions.policy.tolist() == [[-1.0, -5.0, 0.0], [-4.0, -5.0, -13.0]]
    assert batch.completions.lengths.tolist() == [[1, 2, 0], [1, 1, 2]]
    assert batch.completions.scores.tolist() == [[0.5, 2.0, 0.0], [3.0, 1.0, 2.0]]
    assert batch.weights.tolist() == [1.0, 2.0]
    assert batch.draws.row_ids == (1 << 16, 2 << 16)


def test_tokens_of_rankings_run_row_after_row_and_absent_slots_have_none():
    class Reads(prefopt.RankingLoss):
        """Reads tokens of rankings."""

        name = "reads"
        needs = prefopt.Needs(rows={"rankings"}, tokens=True)

        def values(self, batch):
            return batch.completions.tokens.sum(batch.completions.tokens.policy).view(len(batch), -1).sum(1)

        def reward(self, completions):
            return completions.policy

    loss = Reads()
    assembly = Assembly.of([ranking(1, [0.5, 2.0], [1, 2]), ranking(2, [3.0, 1.0, 2.0], [1, 1, 2])], loss)
    batch = assembly.batch(token_logps(assembly), None, loss)
    assert batch.completions.tokens.offsets.tolist() == [0, 1, 3, 3, 4, 5, 7]
    assert loss(batch).losses.tolist() == batch.completions.policy.sum(1).tolist()


def test_gradients_reach_the_completions_of_a_ranking():
    loss = REGISTRY.loss("rrhf")
    assembly = Assembly.of([ranking(1, [0.5, 2.0], [1, 2]), ranking(2, [3.0, 1.0, 2.0], [1, 1, 2])], loss)
    logps = token_logps(assembly)
    leaf = TokenLogps(logps.values.requires_grad_(), logps.lengths)
    loss(assembly.batch(leaf, None, loss)).losses.sum().backward()
    gradient = loss.gradient(assembly.batch(logps, None, loss)).policy
    by_slot = torch.cat([gradient[0, :2], gradient[1]])
    assert TokenLogps(leaf.values.grad, logps.lengths).split()[1].tolist() == [by_slot[1].item()] * 2


def test_row_ids_tell_the_pairs_of_a_ranking_apart():
    assembly = Assembly.of([ranking(3, [0.5, 2.0, 1.0], [1, 2, 1])], REGISTRY.loss("simpo"), seed=5, step=6)
    assert assembly.draws == prefopt.Draws(((3 << 16), (3 << 16) + 1, (3 << 16) + 2), seed=5, step=6)


def test_part_of_the_rows_keeps_its_draws_and_labels():
    rows = [
        Row("labels", "random", n, (1,), (Completion((n,), (True,)),), desirable=n > 1, undesirable_weight=n / 2)
        for n in (1, 2, 3)
    ]
    loss = REGISTRY.loss("bco")
    assembly = Assembly.of(rows, loss)
    logps = token_logps(assembly)
    batch = assembly.batch(logps, logps, loss, loss_rows=[0, 2])
    assert batch.desirable.tolist() == [False, True]
    assert batch.undesirable_weight.tolist() == [0.5, 1.5]
    assert batch.draws.row_ids == (1 << 16, 3 << 16)
