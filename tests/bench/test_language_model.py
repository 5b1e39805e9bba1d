from __future__ import annotations

import json
import sys
from itertools import product
from types import MappingProxyType

import numpy as np
import pytest
import torch

import prefopt
from prefopt.bench.language_model import LanguageModelTask
from prefopt.bench.language_model.cell import win_rate
from prefopt.bench.language_model.pairs import compare, read_as
from prefopt.bench.language_model.prompts import draw_prompts
from prefopt.bench.language_model.remembered import RememberedReference
from prefopt.bench.losses import LossMethod
from prefopt.bench.suite import load_suite, method_of
from prefopt.data.row import Completion, Row
from prefopt.data.trees import grow_rows
from prefopt.engine.assembly import reading
from prefopt.engine.logps import Scorer
from prefopt.errors import ConfigError, DataError
from prefopt.method import Budget
from tests.data.tokenizers import tokenizer
from tests.engine.rows import random_rows
from tests.models import tiny_model

REGISTRY = prefopt.load_registry()
BUDGET = Budget(steps=4, batch_size=6, checkpoints=(2, 4))


class Letters(LanguageModelTask):
    """Texts with many an e are liked."""

    name = "letters"
    prompt_sets = MappingProxyType(
        {"few": tuple(map(" ".join, product(("the", "a", "hello"), ("sky", "sea", "girl"))))}
    )

    def reward(self, settings):
        return lambda texts: [float(text.count("e")) for text in texts]


def small(model_folder, **knobs):
    sizes = {"num_prompts": 5, "num_test_prompts": 4, "num_samples": 3, "max_new_tokens": 5}
    return {"model": str(model_folder), "prompts": "few", **sizes, **knobs}


def measure(knobs, method="dpo", *, task=Letters, trials=({"learning_rate": 1e-3},), seeds=(0,), budget=BUDGET):
    method = method_of(method, REGISTRY) if isinstance(method, str) else method
    return task().measure(method, trials, seeds, knobs, budget)


def rows_of(prompt, completions):
    return [
        Row("demonstrations", "test", number, prompt, (Completion(ids, (True,) * len(ids)),))
        for number, ids in enumerate(completions, 1)
    ]


# The measure ---------------------------------------------------------------------------------------------------------


def test_samples_of_the_same_random_numbers_are_not_held_against_each_other():
    rewards, others = torch.tensor([[1.0, 0.0], [5.0, 5.0]]), torch.tensor([[9.0, 0.0], [5.0, 7.0]])
    # 1 against 0 wins, 0 against 9 loses, 5 against 7 loses, 5 against 5 is a tie.
    assert float(win_rate(rewards, others)) == pytest.approx(1.5 / 4)


# Prompts and pairs ---------------------------------------------------------------------------------------------------


def drawn(source, count, sets=None, name="adds_bos_and_eos", seed=0):
    return draw_prompts(np.random.default_rng(seed), str(source), sets or {}, tokenizer(name), count)


def test_a_text_gives_the_beginning_of_a_prompt_and_a_prompt_all_of_it(write_rows):
    words = tokenizer("adds_bos_and_eos")
    texts = [f"once upon a time there was a story of {number} eggs and a little girl" for number in range(40)]
    whole = [words(text)["input_ids"][:-1] for text in texts]
    found = drawn(write_rows([{"text": text} for text in texts]), 6)
    assert {len(ids) - 1 for ids in found} <= set(range(2, 9))
    assert all(any(list(ids) == own[: len(ids)] for own in whole) for ids in found)
    found = drawn(write_rows([{"prompt": text} for text in texts]), 40)
    assert sorted(map(list, found)) == sorted(whole)
    assert found != drawn(write_rows([{"prompt": text} for text in texts]), 40, seed=1)


@pytest.mark.parametrize(
    ("rows", "count", "message"),
    [
        ([{"prompt": "the sky"}] * 3, 2, "holds 1 different prompts, but training and test need 2"),
        ([{"prompt": "the sky"}, {"label": 1}], 1, "row 2: it needs a column 'prompt' or 'text'"),
    ],
)
def test_unusable_prompts_are_told(write_rows, rows, count, message):
    with pytest.raises(DataError, match=message):
        drawn(write_rows(rows), count)


def test_an_unknown_set_of_prompts_is_told_with_those_there_are():
    with pytest.raises(DataError, match="'storys' is no set of prompts \\(reviews, stories\\)"):
        drawn("storys", 1, {"stories": (), "reviews": ()})


def compared(rewards, noise=0.0, num_samples=4):
    rows = rows_of((1, 2), [(3, number) for number in range(len(rewards))])
    return compare(np.random.default_rng(0), rows, rewards, num_samples=num_samples, noise=noise)


def test_four_completions_make_six_pairs_and_the_better_is_chosen():
    pairs = compared([0.1, 0.4, 0.2, 0.3])
    assert len(pairs) == 6
    assert all(pair.completions[0].score > pair.completions[1].score for pair in pairs)
    assert {pair.completions[0].ids for pair in pairs} == {(3, 1), (3, 2), (3, 3)}


def test_equal_rewards_make_no_pair_and_neither_do_different_prompts():
    assert len(compared([0.5, 0.5, 0.1, 0.1])) == 4
    assert len(compared([0.5, 0.1, 0.2, 0.9], num_samples=2)) == 2


def test_noise_turns_its_share_of_pairs_upside_down_scores_included():
    rewards = [float(number) for number in range(40)]
    pairs = compared(rewards, noise=0.25, num_samples=40)
    wrong = [rewards[pair.completions[0].ids[1]] < rewards[pair.completions[1].ids[1]] for pair in pairs]
    assert np.mean(wrong) == pytest.approx(0.25, abs=0.05)
    assert all(pair.completions[0].score > pair.completions[1].score for pair in pairs)


@pytest.mark.parametrize("name", sorted(REGISTRY.losses))
def test_every_loss_reads_the_pairs(name):
    loss = REGISTRY.loss(name)
    rows = read_as(compared([0.1, 0.4, 0.2, 0.3]), loss)
    assert len(rows) == 6
    assert reading(rows[0].kind, loss)
    assert all(len(row.mismatched) == (2 if loss.needs.mismatched else 0) for row in rows)


def test_the_reference_is_computed_once_a_completion():
    model = Scorer(tiny_model("llama"))
    reference, rows = RememberedReference(model), random_rows("pairs", 6)
    calls = []
    model.model.model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    some = reference.score(grow_rows(rows[:3]), tokens_per_microbatch=1000)
    whole = reference.score(grow_rows(rows), tokens_per_microbatch=1000)
    assert len(calls) == 2
    again = reference.score(grow_rows(rows[::-1]), tokens_per_microbatch=1000)
    assert len(calls) == 2
    truth = model.score(grow_rows(rows), tokens_per_microbatch=1000)
    assert whole.lengths == truth.lengths
    torch.testing.assert_close(whole.values, truth.values, atol=1e-5, rtol=1e-4)
    assert torch.equal(some.values, whole.values[: len(some.values)])
    torch.testing.assert_close(again.sums.view(6, -1).flip(0), whole.sums.view(6, -1))


# Rewards -------------------------------------------------------------------------------------------------------------


def test_a_missing_reward_package_is_told_before_any_model_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(ConfigError, match="reward 'vader' needs the package vaderSentiment"):
        measure({"model": "./nowhere"}, task=REGISTRY.tasks["sentiment"])


# Knobs ---------------------------------------------------------------------------------------------------------------


def test_a_knob_that_is_a_name_takes_text_only():
    knob = prefopt.Knob("vader", "what judges")
    assert knob.accepts("a/b")
    assert not any(knob.accepts(value) for value in ("", 1, None, True))
    assert not prefopt.Knob(1.0, "a number").accepts("1")
    with pytest.raises(ConfigError, match=r"reward = 3; it must be a name or a path \(default 'vader'\)"):
        Letters.settings({"reward": 3})


def test_trials_draw_from_the_tasks_learning_rates():
    assert Letters.learning_rates(Letters.settings({"highest_learning_rate": 0.1})) == (1e-5, 0.1)
    with pytest.raises(ConfigError, match="lowest_learning_rate = 0.1 is above highest_learning_rate = 0.001"):
        Letters.settings({"lowest_learning_rate": 0.1})


@pytest.mark.parametrize("name", ["sentiment", "sentiment-gpt2-large"])
def test_a_suite_gives_every_trial_the_learning_rates_it_says(name):
    cells = load_suite(name).cells(REGISTRY)
    rates = [trial["learning_rate"] for cell in cells for trial in cell.trials if trial]
    knobs = cells[0].knobs
    assert rates
    assert all(knobs["lowest_learning_rate"] <= rate <= knobs["highest_learning_rate"] for rate in rates)
    json.dumps(dict(knobs))


# Whole cells ---------------------------------------------------------------------------------------------------------


def test_test_prompts_are_not_trained_on(model_folder):
    problem = Letters().build(3, **small(model_folder))
    assert len(problem.test_prompts) == 4
    assert not set(problem.test_prompts) & {row.prompt for row in problem.pairs}
    assert problem.rewards.shape == (4, 3)


def test_the_reference_is_at_its_own_reward_and_at_no_kl(model_folder):
    found = measure(small(model_folder), "reference", trials=[{}], seeds=(0, 1))
    metrics = found.metrics
    assert metrics["kl"].shape == (1, 2, 1)
    assert np.array_equal(metrics["reward"][0, :, 0], found.reference_reward)
    assert found.reference_reward[0] != found.reference_reward[1]
    for name in ("kl", "forward_kl", "chosen_log_ratio", "rejected_log_ratio"):
        assert np.abs(metrics[name]).max() < 1e-5
    assert found.optimum_kl is None


@pytest.mark.parametrize("name", ["dpo", "kto", "pl_dpo", "tdpo1", "sft", "wpo"])
def test_a_loss_of_any_kind_moves_the_model(model_folder, name):
    trials = [{"learning_rate": 1e-6}, {"learning_rate": 1e-3}]
    found = measure(small(model_folder), name, trials=trials, seeds=(0, 1)).metrics
    assert all(values.shape == (2, 2, 2) for values in found.values())
    assert all(np.isfinite(values).all() for values in found.values())
    assert (found["kl"][0] < 1e-3 * found["kl"][1]).all()
    assert (found["kl"][1] > 1e-3).all()
    assert (found["chosen_log_ratio"][1, :, -1] > found["rejected_log_ratio"][1, :, -1]).all()
    assert ((found["win_rate"] >= 0) & (found["win_rate"] <= 1)).all()


def test_the_same_cell_gives_the_same_numbers_and_each_trial_begins_anew(model_folder):
    trials = [{"learning_rate": 1e-3}, {"learning_rate": 1e-3, "beta": 0.5}, {"learning_rate": 1e-3}]
    first, again = (measure(small(model_folder), trials=trials).metrics for _ in range(2))
    for name, values in first.items():
        assert np.array_equal(values, again[name])
        assert np.array_equal(values[0], values[2])
    assert not np.array_equal(first["kl"][0], first["kl"][1])


def test_a_run_that_is_not_finite_keeps_the_checkpoints_before_it(model_folder):
    class Breaks(REGISTRY.loss_class("dpo")):
        """Not finite once the policy has moved by a little."""

        def values(self, batch):
            far = batch.chosen.log_ratio.abs().max() > 1e-3
            return super().values(batch) + torch.where(far, torch.inf, 0.0)

    kl = measure(small(model_folder), LossMethod(Breaks), budget=Budget(3, 6, (1, 2, 3))).metrics["kl"][0, 0]
    assert np.isfinite(kl[0])
    assert np.isnan(kl[1:]).all()


def test_a_method_that_knows_exact_worlds_only_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="method ppo needs every completion of a prompt, and task letters has a lang"):
        measure({"model": "./nowhere"}, "ppo")


def test_a_reward_that_tells_nothing_apart_is_told(model_folder):
    class Flat(Letters):
        def reward(self, settings):
            return lambda texts: [0.0] * len(texts)

    with pytest.raises(DataError, match="is the same for all continuations of each of 5 prompts"):
        measure(small(model_folder), task=Flat)


def test_dpo_teaches_a_real_model_to_write_kindly(shared):
    pytest.importorskip("vaderSentiment")
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs the model stories260K in ../shared, which is not part of the repository")
    knobs = {"model": str(folder), "prompts": "stories", "num_prompts": 32, "max_new_tokens": 16}
    trials = [{"learning_rate": rate, "beta": 0.1} for rate in (5e-5, 1e-4, 2e-4)]
    found = measure(knobs, task=REGISTRY.tasks["sentiment"], trials=trials, budget=Budget(20, 16, (20,)))
    gain, kl = found.metrics["reward"][:, 0, 0] - found.reference_reward[0], found.metrics["kl"][:, 0, 0]
    assert (np.diff(kl) > 0).all()
    assert 0.01 < kl[0] < kl[1] < 10
    assert gain[1] > 0.05
    assert gain[2] > 0.05
    assert found.metrics["win_rate"][2, 0, 0] > 0.55
    assert found.metrics["rejected_log_ratio"][2, 0, 0] < found.metrics["chosen_log_ratio"][2, 0, 0]
