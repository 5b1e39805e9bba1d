from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from prefopt.data.trees import grow_rows
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks
from prefopt.errors import ModelError, StoreError
from prefopt.reference import scoring
from prefopt.reference.key import key
from prefopt.reference.scoring import fill, look_up
from prefopt.reference.store import Store
from tests.engine.rows import random_rows
from tests.models import tiny_model
from tests.reference.stores import IDENTITY, MADE_BY

BUDGET = 40


@pytest.fixture(scope="module")
def scorer():
    return Scorer(tiny_model("llama"))


@pytest.fixture
def score(tmp_path, scorer):
    """Fills the store of a test with rows, and counts what the model was asked for."""

    def run(rows, *, model=scorer, place=tmp_path / "store", **settings):
        store = Store(str(place), IDENTITY)
        store.check_writable()
        asked = []
        settings = {"tokens_per_microbatch": BUDGET, "made_by": MADE_BY, **settings}
        found = fill(store, rows, lambda own: asked.extend(own) or model, **settings)
        assert len(asked) == found.rows_scored
        return found

    return run


def stored(place):
    """Key -> bytes of the values, over all shards."""
    store = Store(str(place), IDENTITY)
    return {own: shard.read(row).tobytes() for shard in store.shards for row, own in enumerate(shard.keys.tolist())}


def completions(rows):
    return {(row.prompt, own.ids, own.scored) for row in rows for own in (*row.completions, *row.mismatched)}


@pytest.mark.parametrize("kind", ["pairs", "labels", "rankings", "demonstrations"])
def test_every_completion_of_every_kind_of_row_is_scored_once(score, tmp_path, scorer, kind):
    rows = random_rows(kind, 20)
    found = score(rows)
    assert (found.rows_scored, found.rows_reused) == (20, 0)
    assert found.num_completions == len(completions(rows)) == len(stored(tmp_path / "store"))
    store = Store(str(tmp_path / "store"), IDENTITY)
    for tree in grow_rows(rows):
        plain = Scorer(scorer.model, packed=False, chunked_head=False).score([tree], tokens_per_microbatch=1)
        for (_, own), live in zip(tree.branches, plain.split(), strict=True):
            (values,) = store.read([key(bytes.fromhex(IDENTITY), tree.prompt, own)])
            np.testing.assert_allclose(values, live.numpy(), rtol=0, atol=1e-4)
            np.testing.assert_allclose(values.sum(), live.sum().numpy(), rtol=1e-5)


def test_a_second_pass_scores_nothing(score):
    rows = random_rows("pairs", 20)
    score(rows)
    again = score(rows, model=None)
    assert (again.rows_scored, again.rows_reused, again.num_completions) == (0, 20, 0)


def test_one_more_row_scores_one_row(score):
    rows = random_rows("pairs", 21)
    score(rows[:20])
    for more in (rows, rows[20:] + rows[:20]):
        assert score(more).rows_scored == (1 if more is rows else 0)


def test_order_subset_and_mixture_score_nothing(score):
    one, other = random_rows("pairs", 12), random_rows("labels", 12, seed=5)
    score(one)
    score(other)
    mixture = [*one, *other]
    random.Random(3).shuffle(mixture)
    for rows in (one[::-1], one[3:7], mixture):
        assert score(rows, model=None).rows_scored == 0


def test_with_mismatched_completions_only_changed_neighbours_are_scored(score):
    from prefopt.data.mismatch import add_mismatched

    rows = [row for number, row in enumerate(random_rows("pairs", 20), 1) if number != 3]
    whole, _ = add_mismatched(rows, max_length=64)
    score(whole)
    without, _ = add_mismatched([*rows[:9], *rows[10:]], max_length=64)
    assert score(without).rows_scored == 1


def test_the_same_completion_in_two_rows_is_scored_once(score, tmp_path):
    rows = random_rows("pairs", 5)
    found = score([*rows, *rows, *random_rows("pairs", 40, seed=7), *rows])
    assert (found.rows_scored, found.rows_reused) == (45, 10)
    assert found.num_completions == len(stored(tmp_path / "store"))


def test_values_do_not_depend_on_budget_packing_or_head(score, tmp_path, scorer):
    rows = random_rows("rankings", 12)
    ways = {
        "packed": {},
        "small": {"tokens_per_microbatch": 22},
        "large": {"tokens_per_microbatch": 10**6},
        "plain": {"model": Scorer(tiny_model("llama"), packed=False)},
        "dense": {"model": Scorer(tiny_model("llama"), chunked_head=False)},
        "reversed": {"rows": rows[::-1]},
    }
    found = {}
    for name, way in ways.items():
        score(way.pop("rows", rows), place=tmp_path / name, **way)
        found[name] = stored(tmp_path / name)
    for name, values in found.items():
        assert set(values) == set(found["packed"])
        for own, told in values.items():
            ours, truth = (np.frombuffer(text, np.float32) for text in (told, found["packed"][own]))
            np.testing.assert_allclose(ours, truth, rtol=0, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(ours.sum(), truth.sum(), rtol=1e-5, err_msg=name)


def test_processes_share_the_work_and_their_values_are_those_of_one(score, tmp_path):
    rows = random_rows("pairs", 60)
    score(rows, place=tmp_path / "one")
    parts = [score(rows, place=tmp_path / "three", ranks=Ranks(rank, 3)) for rank in range(3)]
    assert all(part.rows_scored for part in parts)
    assert sum(part.rows_scored for part in parts) == 60
    assert stored(tmp_path / "three") == stored(tmp_path / "one")


class Stop(Exception):
    pass


@pytest.mark.parametrize("interruption", [Stop, KeyboardInterrupt])
def test_what_was_scored_before_an_interruption_is_kept_and_the_end_is_the_same(score, tmp_path, interruption):
    rows = random_rows("pairs", 60)
    score(rows, place=tmp_path / "whole")

    def until(stop):
        for number, row in enumerate(rows):
            if number == stop:
                raise interruption
            yield row

    kept = set()
    for stop in (13, 29, 47, 58):
        with pytest.raises(interruption):
            score(until(stop))
        now = set(stored(tmp_path / "store"))
        assert kept < now
        kept = now
    score(rows)
    assert stored(tmp_path / "store") == stored(tmp_path / "whole")


def test_a_shard_is_written_when_there_is_much_to_lose(score, tmp_path, monkeypatch):
    rows = random_rows("pairs", 60)
    score(rows, place=tmp_path / "rarely")
    monkeypatch.setattr(scoring, "_SHARD_BYTES", 500)
    score(rows, place=tmp_path / "by size")
    monkeypatch.setattr(scoring, "_SHARD_BYTES", 10**9)
    monkeypatch.setattr(scoring, "_SHARD_SECONDS", 0.0)
    score(rows, place=tmp_path / "by time")
    counts = {place.name: len(Store(str(place), IDENTITY).shards) for place in sorted(tmp_path.iterdir())}
    assert counts["rarely"] == 1
    assert counts["by size"] > 2
    assert counts["by time"] > 2
    assert stored(tmp_path / "rarely") == stored(tmp_path / "by size") == stored(tmp_path / "by time")


def test_a_log_prob_that_is_not_finite_is_never_stored(score, tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = torch.nan
    with pytest.raises(ModelError, match="random row 1: the reference gives a log-prob of nan; it is not stored"):
        score(random_rows("pairs", 3), model=Scorer(model))
    assert not stored(tmp_path / "store")


def test_a_store_that_takes_no_more_stops_with_what_was_written(score, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_SHARD_SECONDS", 0.0)
    add, calls = Store.add, []

    def refuse(self, *arguments):
        calls.append(1)
        if len(calls) > 2:
            raise StoreError("no room left")
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", refuse)
        with pytest.raises(StoreError, match="no room left"):
            score(random_rows("pairs", 60))
    assert len(calls) == 3  # it is not tried again
    kept = len(stored(tmp_path / "store"))
    assert kept > 0
    rows = random_rows("pairs", 60)
    assert score(rows).num_completions == len(completions(rows)) - kept


def test_progress_is_told_chunk_by_chunk(score):
    told = []
    score(random_rows("pairs", 60), passed=lambda *counts: told.append(counts))
    assert len(told) > 2
    assert [sum(column) for column in zip(*told, strict=True)] == [60, 60]


def test_missing_rows_are_those_with_a_completion_that_is_not_stored(score, tmp_path):
    rows = random_rows("pairs", 20)
    score(rows[5:12])
    stored, missing = look_up(Store(str(tmp_path / "store"), IDENTITY), rows)
    assert list(stored) == rows[5:12]
    assert list(missing) == [*rows[:5], *rows[12:]]
