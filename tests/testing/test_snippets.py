"""What a failure prints is a program that fails in the same way."""

from __future__ import annotations

import pytest
import torch

import prefopt
from prefopt.testing import CHECKS, Case, CheckFailed
from prefopt.testing.snippets import snippet_of_case
from tests.testing.planted import FAULTS, REGISTRY, Good, GoodTokens

# These are found with the help of a registry that no program has.
FOREIGN = {"name", "docs_page", "relations"}
PLANTED = [(check, loss) for check, losses in FAULTS.items() for loss in losses if check not in FOREIGN]


def run(snippet: str) -> None:
    exec(compile(snippet, "snippet", "exec"), {})


@pytest.mark.parametrize(("check", "loss"), PLANTED, ids=lambda one: getattr(one, "__name__", one))
def test_snippet_reproduces_the_failure(check, loss):
    with pytest.raises(CheckFailed) as failure:
        CHECKS[check](loss, REGISTRY)
    with pytest.raises((AssertionError, prefopt.PluginError)) as again:
        run(failure.value.snippet)
    assert getattr(again.value, "reason", str(again.value)) in failure.value.reason


def test_snippet_holds_the_whole_case():
    tokens = {"policy": [-1.0, -2.0, -0.5], "offsets": [0, 1, 3]}
    case = Case(
        GoodTokens(momentum=0.25),
        "pairs",
        {
            "policy_chosen": torch.tensor([-1.0, -2.5], dtype=torch.bfloat16),
            "policy_rejected": torch.tensor([-0.0, float("inf")], dtype=torch.bfloat16),
            "chosen_lengths": torch.tensor([1, 2], dtype=torch.int32),
            "rejected_lengths": torch.tensor([1, 2]),
            **{f"chosen_tokens.{name}": torch.tensor(values) for name, values in tokens.items()},
            **{f"rejected_tokens.{name}": torch.tensor(values) for name, values in tokens.items()},
        },
        prefopt.Draws((4, 2), seed=1, step=3),
        {"mean": torch.tensor(0.5, dtype=torch.float64)},
    )
    names: dict[str, object] = {}
    program = snippet_of_case("closed_form", case).rpartition("\n")[0]
    exec(compile(program, "snippet", "exec"), names)
    found = Case.of(names["loss"], names["batch"])
    assert found.loss == case.loss
    assert found.draws == case.draws
    assert found.state == case.state
    for name, tensor in case.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor), name
    assert str(found.tensors["policy_rejected"][0].item()) == "-0.0"


def test_snippet_of_a_plugin_file_loads_the_file(tmp_path):
    text = (
        "import prefopt\n"
        "class Bad(prefopt.PairLoss):\n"
        "    name = 'bad'\n"
        "    needs = prefopt.Needs(rows={'pairs'})\n"
        "    def values(self, batch): return batch.chosen.policy.double()\n"
        "    def reward(self, completions): return completions.policy\n"
        "@prefopt.hookimpl\n"
        "def prefopt_register_losses(): return [Bad]\n"
    )
    path = tmp_path / "bad.py"
    path.write_text(text)
    registry = prefopt.load_registry([path])
    with pytest.raises(CheckFailed) as failure:
        CHECKS["shape_and_dtype"](registry.losses["bad"], registry)
    with pytest.raises(AssertionError, match="losses is torch.float64"):
        run(failure.value.snippet)


def test_check_that_is_not_about_batches_cannot_be_rechecked():
    batch = prefopt.PreferenceBatch.from_demonstrations(policy=-torch.ones(1), lengths=torch.ones(1))
    with pytest.raises(ValueError, match="check ranges is not about batches"):
        CHECKS["ranges"].recheck(Good(), batch)
