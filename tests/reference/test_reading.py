from __future__ import annotations

import copy

import pytest
import torch

import prefopt
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import Scorer
from prefopt.errors import StoreError
from prefopt.reference.origin import made_by
from prefopt.reference.reading import StoredReference, check_against
from prefopt.reference.scoring import fill
from prefopt.reference.shard import Entry
from prefopt.reference.store import Store
from tests.engine.rows import random_rows
from tests.models import ARCHITECTURES, tiny_model
from tests.reference.stores import IDENTITY, MADE_BY

ROWS = random_rows("pairs", 8)


def store_of(place, scorer, rows=ROWS, origin=MADE_BY):
    store = Store(str(place), IDENTITY)
    store.check_writable()
    fill(store, rows, lambda _: scorer, tokens_per_microbatch=50, made_by=origin)
    return store


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stored_values_are_those_of_the_live_model_in_any_batch_and_order(tmp_path, architecture):
    scorer, loss = Scorer(tiny_model(architecture)), prefopt.get_loss("dpo")
    stored = StoredReference(store_of(tmp_path, scorer))
    for rows in (ROWS, ROWS[::-1], ROWS[2:5]):
        trees = Assembly.of(rows, loss).trees()
        found = stored.score(trees, tokens_per_microbatch=1)
        live = scorer.score(trees, tokens_per_microbatch=10**6)
        assert found.lengths == live.lengths
        torch.testing.assert_close(found.values, live.values, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.sums, live.sums, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_first_loss_of_dpo_is_ln_2(tmp_path, dtype):
    scorer = Scorer(tiny_model("gpt2", dtype=dtype))
    stored = StoredReference(store_of(tmp_path, scorer), dtype=torch.promote_types(dtype, torch.float32))
    result = accumulate(scorer, stored, prefopt.get_loss("dpo"), ROWS, tokens_per_microbatch=10**6)
    expected = torch.full_like(result.output.losses, torch.log(torch.tensor(2.0)).item())
    tolerance = 1e-4 if dtype != torch.bfloat16 else 0.05
    torch.testing.assert_close(result.output.losses, expected, rtol=0, atol=tolerance)


def test_a_completion_that_is_not_stored_is_no_silent_zero(tmp_path):
    stored = StoredReference(store_of(tmp_path, Scorer(tiny_model("llama")), ROWS[:2]))
    with pytest.raises(StoreError, match="is not in the log-prob store"):
        stored.score(grow_rows(ROWS[2:]), tokens_per_microbatch=50)


def test_a_sample_scored_again_agrees(tmp_path):
    scorer = Scorer(tiny_model("llama"))
    assert check_against(scorer, store_of(tmp_path, scorer), ROWS, num_rows=8, seed=0) < 1e-5


def test_values_of_a_model_that_was_changed_in_memory_are_found(tmp_path):
    scorer = Scorer(tiny_model("llama"))
    changed = copy.deepcopy(scorer)
    with torch.no_grad():
        changed.model.base_model.layers[0].mlp.up_proj.weight.mul_(1.05)
    store = store_of(tmp_path, changed, origin={**MADE_BY, **made_by("cpu")})
    with pytest.raises(StoreError, match=r"random row \d: the stored reference log-probs differ from") as caught:
        check_against(scorer, store, ROWS, num_rows=1, seed=0)
    assert "versions and device are the same" in str(caught.value)
    advice = f"`prefopt cache gc --reference {IDENTITY[:12]} --cache-dir {tmp_path} --yes` removes them"
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_cause_is_named_where_versions_differ(tmp_path):
    scorer, other = (Scorer(tiny_model("llama", seed=seed)) for seed in (0, 1))
    origin = {**MADE_BY, **made_by("cpu"), "transformers": "4.0", "device": "NVIDIA H100"}
    with pytest.raises(
        StoreError, match=r"they were made with transformers 4\.0 \(now 5.*device NVIDIA H100 \(now cpu\)"
    ):
        check_against(scorer, store_of(tmp_path, other, origin=origin), ROWS, num_rows=8, seed=0)


def test_one_wrong_row_is_found_when_it_is_in_the_sample(tmp_path):
    scorer = Scorer(tiny_model("llama"))
    store = store_of(tmp_path / "right", scorer)
    wrong = Store(str(tmp_path / "wrong"), IDENTITY)
    wrong.check_writable()
    (shard,) = store.shards
    shift = [0.01 if row == 3 else 0.0 for row in range(len(shard))]
    wrong.add([Entry(own, shard.read(row) + shift[row]) for row, own in enumerate(shard.keys.tolist())], MADE_BY)
    with pytest.raises(StoreError, match="differ from the model's by"):
        check_against(scorer, wrong, ROWS, num_rows=8, seed=0)


def test_bfloat16_has_the_tolerance_of_bfloat16(tmp_path):
    scorer = Scorer(tiny_model("gpt2", dtype=torch.bfloat16))
    plain = Scorer(scorer.model, packed=False, chunked_head=False)
    assert check_against(plain, store_of(tmp_path, scorer), ROWS, num_rows=8, seed=0) > 0
