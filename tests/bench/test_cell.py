import json

import numpy as np
import torch

import prefopt
from prefopt.bench.cell import Cell, compute
from prefopt.bench.exact import Measurement
from prefopt.method import Budget

REGISTRY = prefopt.load_registry()
TASK = REGISTRY.task("bradley_terry")
KNOBS = TASK.settings({"num_prompts": 2, "depth": 2, "num_rows": 8})


class Diverging(prefopt.Method):
    """Its first trial diverges."""

    name = "diverging"

    def policies(self, trials, worlds, budget):
        logps = worlds.logps[None, :, None].repeat(len(trials), 1, 1, 1, 1)
        logps[0] = torch.nan
        return logps


def cell(**other):
    given = {"task": "bradley_terry", "knobs": KNOBS, "method": "diverging", "trials": ({}, {}), "seeds": (0, 1)}
    given |= {"suite": "small", "split": "held_out", "budget": Budget(1, None, (1,))}
    return Cell(**given | other)


def test_what_is_not_finite_is_null_and_the_rest_has_six_digits():
    record = compute(cell(), TASK, Diverging())
    reward = json.loads(json.dumps(record, allow_nan=False))["metrics"]["reward"]
    assert reward[0] == [[None], [None]]
    assert [value[0] for value in reward[1]] == [float(f"{value[0]:.6g}") for value in reward[1]]


def test_the_identity_is_all_that_defines_the_numbers_and_nothing_else():
    same = {cell().id, cell(suite="other").id}
    others = [
        cell(task="label_noise"),
        cell(knobs={**KNOBS, "depth": 3}),
        cell(method="dpo"),
        cell(split="validation"),
        cell(trials=({},)),
        cell(seeds=(0,)),
        cell(budget=Budget(2, None, (1, 2))),
    ]
    assert len(same) == 1
    assert len(same | {other.id for other in others}) == 8


def test_an_error_for_users_is_told_as_it_is_and_any_other_by_its_name():
    class Refusing(Diverging):
        def policies(self, trials, worlds, budget):
            raise prefopt.DataError("these rows will not do")

    class Faulty(Diverging):
        def policies(self, trials, worlds, budget):
            return [][0]

    assert compute(cell(), TASK, Refusing())["error"] == "these rows will not do"
    assert compute(cell(), TASK, Faulty())["error"] == "IndexError: list index out of range"


def test_a_task_may_measure_itself():
    class Own(prefopt.Task):
        """Measures itself."""

        name = "own"

        def measure(self, method, trials, seeds, knobs, budget):
            metrics = {"reward": np.ones((2, 2, 1)), "kl": np.zeros((2, 2, 1))}
            return Measurement(metrics, np.zeros(2), max_kl=5.0)

        def build(self, seed):
            raise AssertionError("nobody asks")

    record = compute(cell(), Own(), Diverging())
    assert record["status"] == "done"
    assert record["optimum"] is None
    assert record["max_kl"] == 5.0
