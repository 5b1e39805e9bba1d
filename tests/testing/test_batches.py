"""The random batches: they hold what is declared, keep every rule of a batch, and can be taken apart."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prefopt
from prefopt.testing.batches import MODERATE, WIDE, cases, losses, options
from prefopt.testing.case import DIFFERENTIABLE, Case
from prefopt.testing.inputs import ALL, KINDS
from tests.testing.planted import GOOD, Good, GoodLabels, GoodRanking, GoodTokens

many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", KINDS)
@many
@given(data=st.data())
def test_everything_declared_is_there_and_in_its_range(kind, data):
    loss = {"pairs": Good, "labels": GoodLabels, "rankings": GoodRanking}.get(kind, GoodTokens)
    batch = data.draw(
        cases(loss, kind=kind, needs=ALL, scale=data.draw(st.sampled_from([MODERATE, WIDE])), carried=False)
    ).batch()
    assert batch.kind == kind
    assert 1 <= len(batch) <= 4
    assert (batch.weights > 0).all()
    assert len(set(batch.draws.row_ids)) == len(batch)
    for side, own in batch.sides().items():
        assert (own.policy <= 0).all()
        assert kind == "demonstrations" or (own.reference <= 0).all()
        if side == "mismatched":
            continue
        tokens = own.tokens
        assert tokens.lengths.tolist() == own.lengths.flatten().tolist()
        torch.testing.assert_close(tokens.sum(tokens.policy), own.policy.flatten(), rtol=1e-15, atol=1e-12)
        assert (tokens.policy < 0).all()
        assert (tokens.reference_kl > 0).all()
        assert (tokens.log_sum_squares <= 0).all()
        if kind != "demonstrations":
            torch.testing.assert_close(tokens.sum(tokens.reference), own.reference.flatten(), rtol=1e-15, atol=1e-12)


@many
@given(case=cases(Good))
def test_what_is_not_declared_is_absent(case):
    assert set(case.tensors) - {"weights"} == {
        f"{name}_{side}" for name in ("policy", "reference") for side in ("chosen", "rejected")
    } | {"chosen_lengths", "rejected_lengths"}


@many
@given(case=cases(Good, needs=ALL))
def test_the_chosen_completion_scores_higher_and_no_two_rows_tie(case):
    assert (case.tensors["chosen_scores"] > case.tensors["rejected_scores"]).all()
    gap = case.batch().gap
    assert len(set(gap.tolist())) == len(gap)


@many
@given(case=cases(GoodRanking))
def test_rankings_keep_two_completions_and_scores_never_tie(case):
    present = case.tensors["lengths"] > 0
    assert (present.sum(1) >= 2).all()
    assert (case.tensors["policy"][~present] == 0).all()
    for scores in case.tensors["scores"].tolist():
        assert len(set(scores)) == len(scores)


def test_rankings_have_absent_slots_and_labels_have_weights_now_and_then():
    seen = set()

    @many
    @given(ranking=cases(GoodRanking), labels=cases(GoodLabels), tokens=cases(GoodTokens))
    def look(ranking, labels, tokens):
        seen.add(("absent", bool((ranking.tensors["lengths"] == 0).any())))
        seen.add(("weights", "weights" in ranking.tensors))
        seen.add(("undesirable", "undesirable_weight" in labels.tensors))
        seen.add(("state", tokens.state is not None))

    look()
    assert len(seen) == 8


class Constrained(Good):
    """Its low end stays below its high end."""

    low: float = prefopt.field(0.2, ge=0, lt=1)
    high: float = prefopt.field(0.8, gt=0, le=1)
    steps: int = prefopt.field(3, ge=1, le=9)
    mode: Literal["one", "two", "three"] = "one"
    flag: bool = False
    bound: float | None = prefopt.field(None, gt=0)

    def model_post_init(self, context):
        if self.low >= self.high:
            raise prefopt.ConfigError("loss good: low must be below high")


def test_options_are_every_setting_of_flags_and_words():
    assert options(Good) == [{}]
    assert len(options(Constrained)) == 6
    assert {"mode": "three", "flag": True} in options(Constrained)


@many
@given(loss=losses(Constrained, {"mode": "two"}))
def test_hyperparameters_stay_in_range_and_respect_constraints(loss):
    assert loss.mode == "two"
    assert 0 <= loss.low < loss.high <= 1
    assert 0.1 <= loss.beta <= 1.0
    assert 1 <= loss.steps <= 9


@many
@given(data=st.data())
def test_rows_are_taken_with_all_that_is_theirs(data):
    case = data.draw(cases(GoodTokens, min_rows=2, carried=False))
    order = data.draw(st.lists(st.integers(0, len(case) - 1), min_size=1, max_size=5))
    taken = case.rows(order)
    assert len(taken) == len(order)
    whole, part = case.batch(), taken.batch()
    assert part.draws.row_ids == tuple(whole.draws.row_ids[row] for row in order)
    for side in ("chosen", "rejected"):
        old, new = whole.sides()[side], part.sides()[side]
        assert new.policy.tolist() == [old.policy[row].item() for row in order]
        assert new.lengths.tolist() == [old.lengths[row].item() for row in order]
        for place, row in enumerate(order):
            mine = new.tokens.policy[new.tokens.offsets[place] : new.tokens.offsets[place + 1]]
            assert mine.equal(old.tokens.policy[old.tokens.offsets[row] : old.tokens.offsets[row + 1]])


@many
@given(case=st.one_of(*[cases(loss) for loss in GOOD]))
def test_case_of_a_batch_gives_the_same_results(case):
    again = Case.of(case.loss, case.batch())
    assert again.output().losses.equal(case.output().losses)
    assert again.draws == case.draws


@many
@given(case=cases(GoodTokens))
def test_cast_changes_floats_alone(case):
    small = case.to(torch.bfloat16)
    assert small.tensors["policy_chosen"].dtype == torch.bfloat16
    assert small.tensors["chosen_lengths"].dtype == torch.int64
    assert small.state == case.state


def test_gradients_are_named_as_the_fields_of_gradient():
    names = {name for kinds in DIFFERENTIABLE.values() for name in kinds}
    assert names == set(prefopt.Gradient.__dataclass_fields__)


@many
@given(case=cases(GoodTokens))
def test_autograd_leaves_out_what_the_loss_does_not_read(case):
    assert set(case.inputs) == {"policy_chosen", "policy_rejected", "chosen_tokens", "rejected_tokens"}
    assert set(case.autograd()) == set(case.closed_form()) == {"chosen_tokens", "rejected_tokens"}
