from __future__ import annotations

import copy
import json
import math
import random
import re

import pytest
import torch

import prefopt
from prefopt.config import ModelConfig
from prefopt.data.load import load_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.proven import proven
from prefopt.training.health import CERTAIN, FALLEN, FAR, LOST, MOSTLY, SPIKE, WINDOW, Health
from prefopt.training.loss_error import loss_error
from prefopt.training.measures import OWN_METRICS, step_measures

REGISTRY = prefopt.load_registry()
DPO = REGISTRY.loss("dpo")


def metrics(step, **changed):
    """A step of DPO at which all is well."""
    draw = random.Random(step)
    usual = {
        "step": step,
        "loss": math.log(2) - 0.002 * step + draw.gauss(0, 0.02) * (step > 1),
        "loss_error": 0.0,
        "grad_norm": math.exp(draw.gauss(0, 0.4)),
        "learning_rate": 1e-6,
        "reward_margin": 0.01 * step,
        "kl_per_token": 0.001 * step,
        "saturated": 0.0,
        "chosen_log_ratio": 0.02 * step,
        "rejected_log_ratio": -0.05 * step,
        "chosen_logps": -60 + 0.02 * step,
        "rejected_logps": -70 - 0.05 * step,
        "chosen_length": 20.0,
        "rejected_length": 25.0,
    }
    return {name: value for name, value in (usual | changed).items() if value is not None}


def follow(num_steps, changed=lambda step: {}, health=None, start=1):
    """What is said over a run, and the health after it."""
    health = health or Health(DPO)
    told = [line for step in range(start, num_steps + 1) for line in health.after(metrics(step, **changed(step)))]
    return told, health


def test_a_run_that_goes_well_is_not_talked_about():
    told, health = follow(1000)
    assert told == []
    assert health.diverged is None


def test_nothing_is_said_before_there_is_enough_to_say_it_of():
    wrong = {"loss": 9.0, "kl_per_token": 9.0, "saturated": 1.0, "chosen_log_ratio": -900.0}
    told, _ = follow(WINDOW - 1, lambda step: wrong if step > 1 else {})
    assert told == []


@pytest.mark.parametrize(
    ("changed", "sentence", "diverges"),
    [
        ({"saturated": 0.8, "reward_margin": 12.0}, "76% of rows are saturated at a reward margin of 11.4", False),
        ({"kl_per_token": 4.5}, "KL to the reference on the training rows is 4.28 nats a token .* 18.6 times", False),
        (
            {"chosen_log_ratio": -8.0, "rejected_log_ratio": -15.0},
            "chosen completions fall with the rejected ones, by 0.38 and 0.57 nats a token",
            False,
        ),
        (
            {"chosen_log_ratio": -80.0, "rejected_log_ratio": -150.0},
            "lost 3.80 nats a token since the run began .* perplexity 44.7 times .* lower training.learning_rate "
            r"\(now 1e-6\)",
            True,
        ),
        ({"loss": 2.0}, "loss of the last 20 steps is 1.935, above the 0.6931 it began with", True),
    ],
)
def test_a_trouble_is_told_once_with_its_numbers(changed, sentence, diverges):
    told, health = follow(300, lambda step: changed if step > 100 else {})
    assert len(told) == (2 if "lost" in sentence else 1)  # on the way to losing them the chosen ones fall
    assert (health.diverged == told[-1]) == diverges
    # From the second step on: the means are 19 parts of the value and one of the first step's.
    told, _ = follow(WINDOW, lambda step: changed if step > 1 else {"loss": math.log(2)})
    assert len(told) == 1
    assert re.search(sentence, told[0])


@pytest.mark.parametrize(
    ("name", "threshold", "per"),
    [
        ("saturated", MOSTLY, 1),
        ("kl_per_token", FAR, 1),
        ("chosen_log_ratio", -FALLEN, 20),
        ("chosen_log_ratio", -LOST, 20),
    ],
)
def test_thresholds_stand_where_they_are_said_to(name, threshold, per):
    still = {"saturated": 0.0, "kl_per_token": 0.0, "chosen_log_ratio": 0.0, "rejected_log_ratio": 0.0}

    def kinds(factor):
        moved = {"rejected_log_ratio": -9.0, name: factor * threshold * per}
        _, health = follow(100, lambda step: still | (moved if step > 1 else {}))
        return health.state_dict()["told"]

    assert len(set(kinds(1.01)) - set(kinds(0.99))) == 1


def test_a_loss_that_begins_at_zero_is_held_against_its_noise():
    """Its first value is drawn like the others: chance alone must not look like a rise."""
    draw = random.Random(0)

    def noisy(step):
        return {"loss": draw.gauss(0, 1), "loss_error": 1.0}

    for _ in range(50):
        told, _ = follow(200, noisy)
        assert told == []
    told, health = follow(200, lambda step: noisy(step) | ({"loss": draw.gauss(9, 1)} if step > 100 else {}))
    assert len(told) == 1
    assert "standard errors: the run diverges" in health.diverged


def test_without_an_error_the_spread_of_the_steps_stands_in():
    draw = random.Random(0)
    for _ in range(50):
        told, _ = follow(100, lambda step: {"loss": draw.gauss(0, 1), "loss_error": None})
        assert told == []
    told, _ = follow(100, lambda step: {"loss": draw.gauss(0 if step < 50 else 30, 1), "loss_error": None})
    assert len(told) == 1


def test_a_rise_by_half_the_first_value_is_needed_too():
    assert follow(100, lambda step: {"loss": math.log(2) if step == 1 else 1.0})[0] == []
    assert len(follow(100, lambda step: {"loss": math.log(2) if step == 1 else 1.1})[0]) == 1
    assert CERTAIN > 3


def test_a_spike_is_held_against_the_usual_norm_and_the_first_ones():
    (line,), _ = follow(200, lambda step: {"grad_norm": 40.0} if step in (60, 90) else {})
    assert line.startswith("step 60: the gradient norm is 40")
    assert follow(200, lambda step: {"grad_norm": SPIKE * 0.3} if step == 60 else {})[0] == []
    # The rows are saturated and the usual norm is next to nothing: one that still teaches is no spike.
    quiet, _ = follow(200, lambda step: {"grad_norm": 1e-6} if step > 30 and step != 150 else {})
    assert quiet == []


def test_without_a_reference_the_log_probs_are_held_against_the_first_batch():
    bare = dict.fromkeys(["chosen_log_ratio", "rejected_log_ratio", "kl_per_token"])
    draw = random.Random(0)

    def level(fall):
        def of(step):
            lengths = {"chosen_length": 20.0, "rejected_length": 20.0}
            logps = {
                f"{side}_logps": 20 * (-3 + draw.gauss(0, 0.3) - fall * (step > 50)) for side in ("chosen", "rejected")
            }
            return bare | lengths | logps

        return of

    for _ in range(30):  # the first batch is now and then half a nat above the others
        assert follow(40, level(0.0))[0] == []
    assert "fall with the rejected ones" in follow(200, level(2.5))[0][0]
    told, health = follow(200, level(6.0))
    assert "lost" in health.diverged
    assert told


def test_a_reference_that_is_another_model_is_no_trouble():
    far = {"kl_per_token": 7.0, "chosen_log_ratio": -90.0, "rejected_log_ratio": -80.0}
    assert follow(200, lambda step: far)[0] == []


def test_what_a_run_does_not_measure_is_not_missed():
    names = ["reward_margin", "kl_per_token", "saturated", "chosen_log_ratio", "rejected_log_ratio", "learning_rate"]
    names += ["chosen_logps", "rejected_logps", "chosen_length", "rejected_length", "loss_error"]
    assert follow(50, lambda step: dict.fromkeys(names))[0] == []


@pytest.mark.parametrize("cut", [1, 7, 19, 20, 21, 55, 103, 110])
def test_a_resumed_run_says_what_an_uninterrupted_one_says(cut):
    def changed(step):
        return {"loss": 3.0, "kl_per_token": 5.0} if step > 60 else {}

    whole, health = follow(130, changed)
    before, first = follow(cut, changed)
    resumed = Health(DPO)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    after, _ = follow(130, changed, resumed, start=cut + 1)
    assert before + after == whole
    assert len(whole) == 2
    assert resumed.state_dict() == health.state_dict()
    assert resumed.diverged == health.diverged is not None


def test_a_state_of_another_version_is_refused():
    with pytest.raises(prefopt.errors.ConfigError, match="holds early.*another version"):
        Health(DPO).load_state_dict({"early": []})


def test_the_names_it_reads_are_those_of_the_steps():
    assert set(metrics(1)) - {"loss_error"} <= OWN_METRICS


# Real training -------------------------------------------------------------------------------------------------------


def train(shared, loss, learning_rate, num_steps):
    """A run on grammatical against ungrammatical sentences, a few rows a step."""
    name = str(shared / "models" / "stories260K")
    tokenizer = load_tokenizer(ModelConfig(name=name))
    rows, _ = load_rows(f"{shared}/data/blimp_pairs.jsonl[:400]", tokenizer, max_length=64)
    random.Random(0).shuffle(rows)
    policy, _ = proven(load_model(ModelConfig(name=name)), name, tokenizer, rows)
    reference = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    health, told = Health(loss), []
    for step in range(1, num_steps + 1):
        result = accumulate(policy, reference, loss, rows[4 * step - 4 : 4 * step], tokens_per_microbatch=4096)
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        numbers = {"step": step, "loss": result.loss, "loss_error": loss_error(result), "grad_norm": float(norm)}
        told += health.after(numbers | step_measures(loss, result))
    return told, health


def test_a_sane_run_raises_no_alarm_in_100_steps(shared):
    told, health = train(shared, DPO, 3e-5, 100)
    assert told == []
    assert health.diverged is None


def test_a_learning_rate_a_hundred_times_as_high_diverges(shared):
    """DPO's loss falls back to ln 2 as the model breaks; the log-probs tell."""
    told, health = train(shared, DPO, 3e-3, 25)
    assert "losing its language" in health.diverged
    assert any("KL to the reference" in line for line in told)


def test_a_huge_beta_saturates(shared):
    told, _ = train(shared, REGISTRY.loss("dpo", beta=100.0), 3e-5, 45)
    assert any("saturated" in line for line in told)


def test_a_step_without_a_gradient_norm_or_with_an_infinite_reward_is_followed_all_the_same():
    health = Health(prefopt.get_loss("dpo"))
    for step in range(1, 2 * WINDOW):
        overflowed = {"step": step, "loss": 0.6, "chosen_reward": float("inf"), "reward_margin": float("-inf")}
        assert health.after(overflowed) == []
