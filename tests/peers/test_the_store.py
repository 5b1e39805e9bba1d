"""The reference log-probs of a run: scored once, found again, never another's."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.config import to_yaml
from prefopt.data.load import load_rows
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.objective import build_loss
from prefopt.precompute import precompute
from prefopt.reference.key import key
from prefopt.reference.reading import StoredReference
from prefopt.reference.scoring import fill
from prefopt.reference.store import Store
from tests.peers.conftest import python_path
from tests.peers.dense import token_logps
from tests.peers.runs import REGISTRY, settings, train_once
from tests.reference.stores import MADE_BY
from tests.test_precompute import stored

CACHED = {"mode": "cached", "verify_rows": 0}
LORA = {"r": 2, "target_modules": ["q_proj"]}


@pytest.fixture
def score(model_folder, tmp_path):
    """Scores rows into a store; gives what `precompute` says of it."""

    def run(source, **changes):
        place = {"mode": "cached", "cache_dir": str(tmp_path / "store")}
        config = settings({"model": {"name": str(model_folder)}, "reference": place, "output_dir": "none"}, changes)
        return precompute(config, build_loss(config, REGISTRY), train=source)

    return run


def values_of(found, rows):
    """The stored log-probs of every completion of these rows, in order."""
    store, identity = Store(found["store"], found["identity"]), bytes.fromhex(found["identity"])
    return store.read([key(identity, row.prompt, own) for row in rows for own in row.completions])


def truth_of(model, rows):
    return [token_logps(model, row.prompt, own).numpy() for row in rows for own in row.completions]


def agree(found, truth):
    """As section 6 of the design says: tokens to 1e-4 nats, sums to 1e-5 relative."""
    for one, other in zip(found, truth, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
        np.testing.assert_allclose(one.sum(), other.sum(), rtol=1e-5)


SWEEP = {
    "learning rate": {"training": {"learning_rate": 3e-3}},
    "beta": {"loss": {"name": "dpo", "beta": 0.7}},
    "loss": {"loss": "ipo"},
    "seed": {"training": {"seed": 5}},
    "adapter": {"adapter": LORA},
    "adapter seed": {"adapter": LORA, "training": {"seed": 5}},
}


@pytest.mark.parametrize("own", [True, False], ids=["initial policy", "another model"])
def test_01_a_sweep_after_the_first_run_makes_no_reference_forward(
    train, forwards, loaded, model_folder, other_model, pair_rows, own
):
    """Each run of the sweep computes exactly the tokens that a loss without a reference computes, to the last one."""
    reference = CACHED if own else {**CACHED, "model": str(other_model)}
    assert train(pair_rows, reference=reference).scored == (9, 0)
    for changed in SWEEP.values():  # every run has an output folder of its own
        if "adapter" in changed:
            pytest.importorskip("peft")
        model = {"model": {"name": str(model_folder), "adapter": changed.get("adapter")}}
        changes = {name: value for name, value in changed.items() if name != "adapter"}
        forwards.clear(), loaded.clear()
        found = train(pair_rows, reference=reference, **model, **changes)
        passes = list(forwards)
        assert found.scored == (0, 9)
        assert loaded == [str(model_folder)]
        forwards.clear()
        train(pair_rows, **model, **{**changes, "loss": "simpo"})
        assert passes == forwards


def test_01_losses_that_couple_rows_read_the_same_store(train, loaded, model_folder, other_model, pair_rows):
    reference = {**CACHED, "model": str(other_model)}
    train(pair_rows, reference=reference, loss="kto")
    loaded.clear()
    for loss in ("kto", "bco", "aot_paired", "dpo", "wpo"):
        assert train(pair_rows, reference=reference, loss=loss, training={"seed": 2}).scored == (0, 9)
    assert set(loaded) == {str(model_folder)}


def test_01_one_more_row_costs_one_row(score, forwards, model_folder, pair_rows):
    assert score(pair_rows[:8])["rows_scored"] == 8
    before = stored(Path(score(pair_rows[:8])["store"]))
    rows, _ = load_rows(pair_rows[8:], AutoTokenizer.from_pretrained(model_folder), max_length=64)
    forwards.clear()
    found = score(pair_rows)
    assert (found["rows_scored"], found["rows_reused"], found["num_completions"]) == (1, 8, 2)
    # The proof of the model looks at the new row too, in five passes; the last pass is the row itself, packed.
    assert forwards[-1] == sum(tree.num_tokens for tree in grow_rows(rows))
    assert len(forwards) <= 8
    after = stored(Path(found["store"]))
    assert len(after) == len(before) + 2
    assert all(after[own] == value for own, value in before.items())


@pytest.mark.parametrize("source", ["list", "jsonl", "arrow", "dataset", "stream", "generator"])
def test_02_the_store_works_from_every_source_with_the_same_values(score, pair_rows, write_rows, tmp_path, source):
    dataset = datasets.Dataset.from_list(pair_rows)
    dataset.save_to_disk(tmp_path / "arrow")
    rows = {
        "list": pair_rows,
        "jsonl": str(write_rows(pair_rows)),
        "arrow": str(tmp_path / "arrow"),
        "dataset": dataset,
        "stream": dataset.to_iterable_dataset(),
        "generator": datasets.IterableDataset.from_generator(lambda: iter(pair_rows)),
    }[source]
    place = {"cache_dir": str(tmp_path / "own")}
    truth = stored(score(pair_rows)["store"])
    assert score(rows, reference=place)["rows_scored"] == 9
    assert stored(tmp_path / "own") == truth
    assert score(rows, reference={"cache_dir": str(tmp_path / "store")})["rows_reused"] == 9


def test_02_another_process_scores_and_finds_the_same(score, model_folder, pair_rows, write_rows, tmp_path):
    found = score(pair_rows[:5])
    place = {"mode": "cached", "cache_dir": found["store"]}
    changes = {"model": {"name": str(model_folder)}, "reference": place, "data": {"train": str(write_rows(pair_rows))}}
    (tmp_path / "run.yaml").write_text(to_yaml(settings(changes, {"output_dir": "none"})))
    command = [sys.executable, "-W", "ignore", "-m", "prefopt", "precompute", str(tmp_path / "run.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "scored  4 rows (8 completions)" in done.stderr
    assert "5 rows were there already" in " ".join(done.stderr.split())
    alone = score(pair_rows, reference={"cache_dir": str(tmp_path / "alone")})
    same_values(stored(found["store"]), stored(alone["store"]))


def test_02_two_ranks_score_and_find_the_same(two_ranks, two_ranks_folder):
    for rank in two_ranks:
        assert rank["stores"]["own"]["rows_scored"] == 23
        assert (rank["stores"]["there"]["rows_scored"], rank["stores"]["there"]["rows_reused"]) == (0, 23)
    assert len(list((two_ranks_folder / "own").rglob("*.arrow"))) == 2  # both took part
    same_values(stored(two_ranks_folder / "own"), stored(two_ranks_folder / "there"))


def same_values(found, truth):
    """To rounding: who scores only a part fills other micro-batches."""
    assert set(found) == set(truth)
    pieces = [[np.frombuffer(own[each], np.float32) for each in truth] for own in (found, truth)]
    agree(*pieces)


def test_03_stored_log_probs_are_those_of_the_live_reference(score, model_folder, pair_rows):
    """The truth is transformers' own forward on one row at a time."""
    rows, _ = load_rows(pair_rows, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    agree(values_of(score(pair_rows), rows), truth_of(model, rows))


@pytest.mark.parametrize(("source", "tolerance"), [("stored", 1e-4), ("live", 1e-6)])
def test_03_a_policy_that_is_its_reference_has_a_dpo_loss_of_ln_2_on_every_row(
    score, model_folder, pair_rows, source, tolerance
):
    rows, _ = load_rows(pair_rows, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    policy, reference = (Scorer(AutoModelForCausalLM.from_pretrained(model_folder)) for _ in range(2))
    if source == "stored":
        found = score(pair_rows)
        reference = StoredReference(Store(found["store"], found["identity"]))
    result = accumulate(policy, reference, REGISTRY.loss("dpo", beta=0.5), rows, tokens_per_microbatch=60)
    assert len(result.output.losses) == 9
    assert (result.output.losses - math.log(2)).abs().max() <= tolerance


@pytest.mark.parametrize("way", ["one row at a time", "all rows at once", "padding on the left", "plain rows"])
def test_04_stored_values_do_not_depend_on_batch_size_padding_side_or_packing(
    score, model_folder, pair_rows, tmp_path, way
):
    words = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    rows, _ = load_rows(pair_rows, words, max_length=64)
    if way == "plain rows":  # padded side by side
        store = Store(str(tmp_path / "store"), "ab" * 32)
        plain = Scorer(model, packed=False)
        fill(store, rows, lambda _: plain, tokens_per_microbatch=128, made_by=MADE_BY)
        found = {"store": str(tmp_path / "store"), "identity": "ab" * 32}
    elif way == "padding on the left":
        words.padding_side = "left"
        shutil.copytree(model_folder, tmp_path / "left")
        words.save_pretrained(tmp_path / "left")
        found = score(pair_rows, model={"name": str(tmp_path / "left")})
        assert found["identity"] == score(pair_rows)["identity"]  # and nothing is scored twice
        assert score(pair_rows)["rows_scored"] == 0
    else:
        budget = {"one row at a time": 30, "all rows at once": 10**6}[way]
        found = score(pair_rows, training={"tokens_per_microbatch": budget})
    agree(values_of(found, rows), truth_of(model, rows))


def conversations(rows):
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in rows
    ]


def copied(folder, place):
    shutil.copytree(folder, place)
    return place


def change_truncation(folder, place):
    return {"data": {"max_length": 32}}


def change_template(folder, place):
    words = AutoTokenizer.from_pretrained(copied(folder, place))
    words.chat_template = words.chat_template.replace("<|im_start|>", "<|im_start|> ", 1)
    words.save_pretrained(place)
    return {"model": {"name": str(place)}}


def change_precision(folder, place):
    return {"model": {"dtype": "bfloat16"}}


def change_a_weight(folder, place):
    weights = load_file(copied(folder, place) / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return {"model": {"name": str(place)}}


def change_config(folder, place):
    path = copied(folder, place) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-3}))
    return {"model": {"name": str(place)}}


def add_an_adapter(folder, place):
    pytest.importorskip("peft")
    pairs = [{"prompt": "a", "chosen": " b", "rejected": " c"}]
    train_once(pairs, {"model": {"name": str(folder), "adapter": LORA}, "output_dir": str(place)})
    return {"model": {"adapter": {"path": str(place)}}}


def compute_in_less(folder, place):
    return {"model": {"autocast": "bfloat16"}}


@pytest.mark.parametrize(
    "change",
    [
        change_truncation,
        change_template,
        change_precision,
        compute_in_less,
        change_a_weight,
        change_config,
        add_an_adapter,
    ],
)
def test_05_what_changes_a_log_prob_is_another_identity_and_never_a_stale_hit(
    score, model_folder, pair_rows, tmp_path, change
):
    long = [{**row, "prompt": "so so so so so so " + row["prompt"]} for row in pair_rows]
    rows = conversations(long)
    before = score(rows)
    assert before["rows_scored"] == 9
    changes = change(model_folder, tmp_path / "changed")
    after = score(rows, **changes)
    assert (after["rows_scored"], after["rows_reused"]) == (9, 0)
    alone = score(rows, **changes, reference={"cache_dir": str(tmp_path / "fresh")})
    name = changes.get("model", {}).get("name", str(model_folder))
    length = changes.get("data", {}).get("max_length", 64)
    read, _ = load_rows(rows, AutoTokenizer.from_pretrained(name), max_length=length)
    for one, other in zip(values_of(after, read), values_of(alone, read), strict=True):
        np.testing.assert_array_equal(one, other)
    assert score(rows)["rows_scored"] == 0  # what was there before still is


def test_06_training_from_the_store_loads_no_reference_model(
    train, score, loaded, model_folder, other_model, pair_rows, tmp_path
):
    reference = {"mode": "cached", "model": str(other_model), "cache_dir": str(tmp_path / "store")}
    score(pair_rows, reference=reference)
    assert loaded == [str(other_model)]
    loaded.clear()
    found = train(pair_rows, reference={**reference, "strict": True}, training={"max_steps": 5})
    assert loaded == [str(model_folder)]
    assert found.record["reference"]["model_loaded"] is False
    live = train(pair_rows, reference={"mode": "live", "model": str(other_model)}, training={"max_steps": 5})
    assert found.losses == pytest.approx(live.losses, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["loss=tdpo1", "reference.mode=cached"], "which no store holds"),
        (["reference.mode=none"], "loss dpo needs reference log-probs"),
        (["reference.mode=none", "reference.model=x"], "reference.model has no effect"),
        (["reference.mode=cached", "reference.update_steps=2"], "no stored log-prob stays true"),
        (["reference.strict=true"], "reference.strict has no effect with reference.mode 'live'"),
        (["reference.cache_dir=x"], "reference.cache_dir has no effect with reference.mode 'live'"),
        (["loss=[{name: kto}, {name: sft}]"], "must accept the same rows"),
        (["loss=pl_dpo"], "reads rankings; these rows are pairs"),
    ],
)
def test_06_what_does_not_go_together_fails_before_anything_is_loaded(
    prefopt, write_config, write_rows, pair_rows, tmp_path, loaded, overrides, told
):
    """The model is not even there: whatever looked for it would say so instead."""
    outcome = prefopt("train", write_config(write_rows(pair_rows), model="/nowhere/at/all"), *overrides)
    assert told in outcome.error
    assert not loaded
    assert not (tmp_path / "out").exists()
