"""The losses themselves: finite or loud, one implementation each, and what a name means."""

from __future__ import annotations

import ast
import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import prefopt as library
from prefopt.data.load import load_rows
from prefopt.engine import head as head_module
from prefopt.engine.accumulation import accumulate
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import Scorer, TokenLogps
from prefopt.errors import NonFiniteLossError
from prefopt.testing import check_loss
from tests.engine.rows import kind_of
from tests.engine.test_accumulation import gradient, relative
from tests.models import tiny_model
from tests.peers.dense import live_token_logps, token_logps
from tests.peers.rows import even_rows
from tests.peers.runs import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
every_loss = pytest.mark.parametrize("name", sorted(REGISTRY.losses))

POISONED = """
import torch
import prefopt

class Poisoned(prefopt.PairLoss):
    name = "poisoned"
    needs = prefopt.Needs(rows={"pairs"}, coupled=COUPLED)

    def values(self, batch):
        losses = -batch.chosen.policy
        where = batch.chosen.lengths == batch.chosen.lengths.new_tensor(LENGTH)
        return torch.where(where, losses * float("VALUE"), losses)

    def reward(self, completions):
        return completions.policy

@prefopt.hookimpl
def prefopt_register_losses():
    return [Poisoned]
"""


@pytest.fixture
def poisoned(tmp_path, pair_rows, model_folder):
    """Nine rows, a loss that is not finite on the fifth of them, and where its plugin lies."""
    rows = [dict(row) for row in pair_rows]
    rows[4]["chosen"] += " more than any other row of these has to say"
    read, _ = load_rows(rows, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    lengths = [row.completions[0].num_scored for row in read]
    assert lengths.count(lengths[4]) == 1

    def plugin(value, coupled=False):
        path = tmp_path / "poisoned.py"
        text = POISONED.replace("VALUE", value).replace("LENGTH", str(lengths[4])).replace("COUPLED", str(coupled))
        path.write_text(text)
        return path

    return rows, plugin


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("budget", [60, 10**6])
def test_10_a_loss_that_is_not_finite_stops_the_run_and_names_its_row(
    prefopt, write_config, write_rows, poisoned, model_folder, tmp_path, value, coupled, budget
):
    rows, plugin = poisoned
    config = write_config(write_rows(rows), loss="poisoned")
    settings = ["training.batch_size=9", f"training.tokens_per_microbatch={budget}"]
    outcome = prefopt("train", config, *settings, "--plugin", plugin(value, coupled))
    assert "rows.jsonl row 5" in outcome.error
    assert outcome.error.count("rows.jsonl row") == 1
    assert "the step was not taken" in outcome.error
    kept = load_file(tmp_path / "out" / "last_good" / "model.safetensors")
    before = load_file(model_folder / "model.safetensors")
    assert all(torch.equal(kept[name], weight) for name, weight in before.items() if name in kept)


def test_10_a_held_out_row_that_is_not_finite_is_named_too(prefopt, write_config, write_rows, poisoned, pair_rows):
    rows, plugin = poisoned
    held_out = write_rows(rows, "held_out.jsonl")
    config = write_config(write_rows(pair_rows[:3]), loss="poisoned", data={"evaluation": str(held_out)})
    outcome = prefopt("train", config, "--plugin", plugin("nan"))
    assert "held_out.jsonl row 5" in outcome.error
    assert outcome.error.count("held_out.jsonl row") == 1


def test_10_a_gradient_that_is_not_finite_under_a_finite_loss_names_the_rows_of_its_step(
    prefopt, write_config, write_rows, pair_rows, tmp_path, model_folder
):
    plugin = tmp_path / "steep.py"
    steep = POISONED.replace("losses * float", "losses - (losses * 0).sqrt() * float").replace("VALUE", "1")
    plugin.write_text(steep.replace("== batch.chosen.lengths.new_tensor(LENGTH)", "> 0").replace("COUPLED", "False"))
    outcome = prefopt("train", write_config(write_rows(pair_rows[:3]), loss="poisoned"), "--plugin", plugin)
    assert "the gradient is nan although every loss is finite" in outcome.error
    assert all(f"rows.jsonl row {number}" in outcome.error for number in (1, 2, 3))


IPO = {
    # (h_w - h_l - 1 / (2 tau))^2 with log-ratios summed, as Azar et al. have it, or averaged over tokens
    False: lambda ratio_w, ratio_l, tau: (ratio_w.sum() - ratio_l.sum() - 1 / (2 * tau)) ** 2,
    True: lambda ratio_w, ratio_l, tau: (ratio_w.mean() - ratio_l.mean() - 1 / (2 * tau)) ** 2,
}


@pytest.mark.parametrize("per_token", [False, True], ids=["sum", "average"])
def test_11_ipo_is_the_papers_sum_and_on_demand_the_average(train, model_folder, other_model, pair_rows, per_token):
    """The first loss of a run, and its gradient, against the closed form on transformers' own log-probs."""
    loss = {"name": "ipo", "tau": 0.3, **({"length_normalized": True} if per_token else {})}
    training = {"batch_size": 9, "max_steps": 1}
    (step,) = train(pair_rows, loss=loss, reference={"model": str(other_model)}, training=training).steps
    rows, _ = load_rows(pair_rows, AutoTokenizer.from_pretrained(model_folder), max_length=64)
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder) for folder in (model_folder, other_model))
    values = []
    for row in rows:
        ratios = [
            live_token_logps(policy, row.prompt, own) - token_logps(reference, row.prompt, own)
            for own in row.completions
        ]
        values.append(IPO[per_token](*ratios, 0.3))
    mean = torch.stack(values).mean()
    mean.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in policy.parameters()]).norm()
    assert step["loss"] == pytest.approx(mean.item(), rel=1e-4)
    assert step["grad_norm"] == pytest.approx(float(norm), rel=1e-3)


def test_11_the_two_are_told_apart_by_an_explicit_option():
    assert REGISTRY.loss("ipo").length_normalized is False
    with pytest.raises(library.ConfigError, match="length_normalized"):
        REGISTRY.loss("ipo", average=True)


@every_loss
def test_16_at_the_ends_of_float32_and_bfloat16_nothing_is_nan_and_all_that_fits_is_finite(name):
    (result,) = check_loss(REGISTRY.losses[name], REGISTRY, ["extremes"])
    assert result.outcome == "passed", result.message


@every_loss
@pytest.mark.parametrize(("dtype", "sign"), [(torch.float32, 1), (torch.bfloat16, -1)], ids=["high", "low"])
def test_16_log_ratios_of_thousands_of_nats_train_or_are_refused_by_name(name, dtype, sign):
    """Through the engine: one of the two models is as good as certain of every token, and mostly wrong."""
    models = [tiny_model("llama", seed=seed, dtype=dtype) for seed in (0, 1)][::sign]
    with torch.no_grad():
        models[0 if sign == 1 else 1].get_output_embeddings().weight.mul_(1e3)
    loss = REGISTRY.loss(name)
    rows = even_rows(kind_of(loss), 4)

    def total(policy, reference):
        return accumulate(Scorer(policy), Scorer(reference), loss, rows, tokens_per_microbatch=30)

    try:
        exact = total(*(copy.deepcopy(model).double() for model in models)).loss
    except NonFiniteLossError:
        exact = math.inf
    if exact > torch.finfo(torch.float32).max:
        with pytest.raises(NonFiniteLossError, match="inf on even row"):
            total(*models)
        return
    result = total(*models)
    if loss.needs.reference:
        assert (result.policy.sums - result.reference.sums).abs().max() > 1e4
    assert math.isfinite(result.loss)
    assert all(own.grad.isfinite().all() for own in models[0].parameters() if own.grad is not None)


def classes_named(folder):
    """Loss name -> the classes that say it is theirs, over all source files."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            for line in node.body:
                if isinstance(line, ast.Assign) and [ast.unparse(target) for target in line.targets] == ["name"]:
                    found.setdefault(ast.literal_eval(line.value), []).append(f"{path.name}: {node.name}")
    return found


def test_20_each_loss_is_implemented_once_in_a_file_of_its_name():
    found = {}
    for folder in (ROOT / "prefopt", ROOT / "plugins" / "prefopt_losses"):
        for name, places in classes_named(folder).items():
            found.setdefault(name, []).extend(places)
    for name, loss in REGISTRY.losses.items():
        assert found[name] == [f"{name}.py: {loss.__name__}"]


@every_loss
def test_20_the_engine_computes_a_loss_as_it_is_on_log_probs_and_the_chunked_head_is_the_dense_one(name, monkeypatch):
    """The same object on log-probs from the model's own logits gives the values that training gives, row by row."""
    monkeypatch.setitem(head_module._CHUNK_ELEMENTS, "cpu", 64 * 7)  # seven tokens at a time
    loss = REGISTRY.loss(name)
    policy, reference = (tiny_model("gpt2", seed=seed, dtype=torch.float64) for seed in (0, 1))
    rows = even_rows(kind_of(loss))
    assert Scorer(policy).head is not None
    chunked, found = gradient(policy, reference, loss, rows, tokens_per_microbatch=60)
    dense, truth = gradient(policy, reference, loss, rows, tokens_per_microbatch=60, packed=False, chunked_head=False)
    assert relative(found, truth) <= 1e-9
    torch.testing.assert_close(chunked.output.losses, dense.output.losses, rtol=1e-9, atol=1e-12)
    if loss.needs.distribution is None:
        assembly = Assembly.of(rows, loss)
        sides = [[token_logps(model, *slot) for slot in assembly.slots] for model in (policy, reference)]
        own, other = (TokenLogps(torch.cat(side), tuple(map(len, side))) for side in sides)
        alone = loss(assembly.batch(own, other, loss))
        torch.testing.assert_close(chunked.output.losses, alone.losses, rtol=1e-9, atol=1e-12)
