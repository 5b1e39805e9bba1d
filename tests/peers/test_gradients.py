"""The gradient of an optimiser batch: the same however it is cut, weighted and spread."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefopt as library
from prefopt.data.load import load_rows
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import Scorer
from prefopt.preparation import prepare
from tests.engine.rows import kind_of
from tests.engine.test_accumulation import gradient, relative
from tests.models import tiny_model
from tests.peers.dense import live_token_logps
from tests.peers.rows import even_rows
from tests.peers.runs import REGISTRY, Trained, settings, train_once

every_loss = pytest.mark.parametrize("name", sorted(REGISTRY.losses))
PRECISIONS = {"float64": ("gpt2", torch.float64, 1e-8), "float32": ("llama", torch.float32, 2e-5)}


@every_loss
@pytest.mark.parametrize("precision", PRECISIONS)
def test_07_the_gradient_is_the_same_for_8x1_4x2_2x4_and_1x8_rows_shuffled_or_not(name, precision):
    architecture, dtype, tolerance = PRECISIONS[precision]
    loss = REGISTRY.loss(name)
    policy, reference = (tiny_model(architecture, seed=seed, dtype=dtype) for seed in (0, 1))
    rows = even_rows(kind_of(loss))
    trees = Assembly.of(rows, loss).trees()
    (size,) = {tree.num_tokens for tree in trees}
    whole, truth = gradient(policy, reference, loss, rows, tokens_per_microbatch=8 * size)
    assert truth.norm() > 0
    for count in (1, 2, 4, 8):
        budget = 8 // count * size
        assert [len(part) for part in Scorer(policy).cut(trees, budget)] == [8 // count] * count
        shuffled = random.Random(count).sample(rows, 8)
        if dtype == torch.float32 and count in (2, 4):
            continue  # what is wrong there is wrong in the other precision too
        for batch in (shuffled,) if count in (2, 4) else (rows, shuffled):
            result, found = gradient(policy, reference, loss, batch, tokens_per_microbatch=budget)
            assert relative(found, truth) <= tolerance
            assert result.loss == pytest.approx(whole.loss, rel=1e-5, abs=1e-6)


@every_loss
@pytest.mark.parametrize("precision", PRECISIONS)
def test_07_the_gradient_on_two_ranks_is_that_on_one(two_ranks, name, precision):
    tolerance = PRECISIONS[precision][2]
    for rank in two_ranks:
        assert rank["gradients"][precision][name]["gap"] <= tolerance


def test_08_the_token_mean_of_a_step_is_that_of_its_whole_batch(train, model_folder):
    """Demonstrations of 3 to 40 tokens, one to a micro-batch: loss and gradient against transformers' own."""
    raw = [{"prompt": f"Say {text[:5]}.", "completion": text} for text in (" a", " sky" * 9, " once upon" * 18, " b c")]
    found = train(raw, loss="sft", training={"batch_size": 4, "max_steps": 1, "tokens_per_microbatch": 52})
    rows, _ = load_rows(raw, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    logps = [live_token_logps(model, row.prompt, row.completions[0]) for row in rows]
    mean = -torch.cat(logps).mean()
    mean.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).norm()
    (step,) = found.steps
    assert step["loss"] == pytest.approx(mean.item(), rel=1e-5)
    assert step["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    of_means = -sum(own.mean() for own in logps) / len(logps)
    assert step["loss"] != pytest.approx(of_means.item(), rel=1e-2)  # the two can be told apart on these rows


def token_means():
    """Losses of pairs, with each option, that have a term which is no mean over rows."""
    found = {}
    for name, loss in REGISTRY.losses.items():
        if "pairs" not in loss.needs.rows or loss.needs.tokens or loss.needs.distribution or loss.needs.coupled:
            continue
        for field, part in loss.model_json_schema().get("properties", {}).items():
            for option in part.get("enum", []):
                own = REGISTRY.loss(name, **{field: option})
                terms = own(Assembly.of(even_rows("pairs", 3), own).stand_in(own)).all_terms()
                if any((normaliser != 1).any() for _, normaliser in terms.values()):
                    found[f"{name} {field}={option}"] = own
    return found


TOKEN_MEANS = token_means()


@pytest.mark.parametrize("name", TOKEN_MEANS)
def test_08_a_term_with_a_normaliser_is_divided_by_that_of_the_whole_batch(name):
    """The truth: log-probs of transformers' own forward, each term summed over its normaliser, autograd."""
    loss, rows = TOKEN_MEANS[name], even_rows("pairs")
    model, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    _, found = gradient(model, reference, loss, rows, tokens_per_microbatch=21)
    model.zero_grad()
    tensors = {"weights": torch.tensor([row.weight for row in rows], dtype=torch.float64)}
    for place, side in enumerate(("chosen", "rejected")):
        own = [(row.prompt, row.completions[place]) for row in rows]
        tensors[f"policy_{side}"] = torch.stack([live_token_logps(model, *each).sum() for each in own])
        tensors[f"{side}_lengths"] = torch.tensor([each.num_scored for _, each in own])
        if loss.needs.reference:
            values = [live_token_logps(reference, *each).sum().detach() for each in own]
            tensors[f"reference_{side}"] = torch.stack(values)
    terms = loss(library.PreferenceBatch.from_pairs(**tensors)).all_terms()
    weights = tensors["weights"]
    sum((weights * values).sum() / (weights * normaliser).sum() for values, normaliser in terms.values()).backward()
    truth = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert relative(found, truth) <= 1e-10


def test_08_there_are_such_losses():
    assert {name.split()[0] for name in TOKEN_MEANS} >= {"sft", "cpo", "orpo", "rpo"}


LABELS = [{"prompt": f"Is {word} good?", "completion": f" {word} is", "label": word < "m"} for word in "abcxyz"]


def labelled(count):
    return [LABELS[place // 2 if place % 2 == 0 else 5 - place // 2] for place in range(count)]


def test_09_kto_trains_at_batches_and_microbatches_of_one_row(train):
    """Six batches of one row, each of one class, are finite; micro-batches of one row are the whole batch."""
    alone = train(labelled(6), loss="kto", training={"batch_size": 1, "max_steps": 6, "tokens_per_microbatch": 30})
    assert [step["num_rows"] for step in alone.steps] == [1] * 6
    assert all(math.isfinite(value) for step in alone.steps for value in step.values())
    whole, cut = (
        train(labelled(6), loss="kto", training={"batch_size": 6, "tokens_per_microbatch": budget})
        for budget in (10**6, 30)
    )
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)
    for name, weight in cut.weights.items():
        torch.testing.assert_close(weight, whole.weights[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["labels", "pairs"])
@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_09_no_row_is_its_own_mismatch_the_odd_tail_included(model_folder, pair_rows, kind, count):
    raw = labelled(count) if kind == "labels" else pair_rows[:count]
    words = AutoTokenizer.from_pretrained(model_folder)
    config = settings({"model": {"name": str(model_folder)}, "loss": "kto", "output_dir": "none"})
    rows = prepare(config, REGISTRY.loss("kto"), words, raw).train
    prompts = {own.ids: row.prompt for row in rows for own in row.completions}
    for row in rows:
        assert len(row.mismatched) == len(row.completions)
        for own in row.mismatched:
            assert prompts[own.ids] != row.prompt


@pytest.mark.parametrize("name", sorted(name for name, own in REGISTRY.losses.items() if "labels" in own.needs.rows))
@pytest.mark.parametrize("desirable", [True, False])
def test_09_a_batch_of_one_class_is_finite(name, desirable):
    policy, reference = (tiny_model("llama", seed=seed) for seed in (0, 1))
    rows = [replace(row, desirable=desirable) for row in even_rows("labels", 5)]
    result, found = gradient(policy, reference, REGISTRY.loss(name), rows, tokens_per_microbatch=30)
    assert math.isfinite(result.loss)
    assert found.isfinite().all()
    assert found.norm() > 0


@every_loss
def test_21_a_row_of_weight_two_is_the_row_twice(name):
    policy, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    loss = REGISTRY.loss(name)
    first, second, third = (replace(row, weight=1.0) for row in even_rows(kind_of(loss), 3))
    heavy = [first, replace(second, weight=2.0), third]
    twice, truth = gradient(policy, reference, loss, [first, second, second, third], tokens_per_microbatch=10**6)
    weighted, found = gradient(policy, reference, loss, heavy, tokens_per_microbatch=30)
    assert relative(found, truth) <= 1e-10
    assert weighted.loss == pytest.approx(twice.loss, rel=1e-10)


def test_21_a_column_of_weights_is_read(train, pair_rows):
    """A whole run: losses, accuracy and held-out means."""
    heavy = [*pair_rows[:3], {**pair_rows[3], "weight": 2}]
    twice = [*pair_rows[:4], pair_rows[3]]
    held_out = {"data": {"train": "in memory", "max_length": 64}, "training": {"batch_size": 9, "max_steps": 3}}
    one, other = (train(rows, loss="ipo", **held_out) for rows in (heavy, twice))
    for name in ("loss", "reward_margin", "reward_accuracy", "grad_norm"):
        assert [step[name] for step in one.steps] == pytest.approx([step[name] for step in other.steps], rel=1e-4)


def test_26_gradients_agree_across_ranks_under_ddp(two_ranks):
    """Bit for bit on both ranks, and the sum of what each computed: neither rank's own part, which is far from it."""
    first, second = (rank["gradients"]["float64"] for rank in two_ranks)
    for name in REGISTRY.losses:
        assert first[name]["digest"] == second[name]["digest"], name
        assert first[name]["gap"] <= 1e-8, name
    assert [rank["own part"] > 0.1 for rank in two_ranks] == [True, True]


def test_26_two_processes_train_the_model_that_one_trains(two_ranks, two_ranks_folder, two_ranks_configs, tmp_path):
    for rank in two_ranks:
        assert rank["train"]["code"] == 0, rank["train"]["told"]
    both = Trained.at(two_ranks_folder / "trained")
    alone = train_once(None, two_ranks_configs["train"], {"output_dir": str(tmp_path / "alone")})
    assert both.losses == pytest.approx(alone.losses, rel=1e-3, abs=1e-4)
    for name, weight in both.weights.items():
        torch.testing.assert_close(weight, alone.weights[name], rtol=1e-3, atol=1e-5)
