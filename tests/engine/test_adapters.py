from __future__ import annotations

import copy
import json

import pytest
import torch

import prefopt
from prefopt.config import AdapterConfig, ModelConfig
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.adapters import spelled_out
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from prefopt.errors import ConfigError, ModelError
from tests.engine.rows import random_rows
from tests.models import tiny_model

pytest.importorskip("peft")
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
ROWS = random_rows("pairs", 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_model("llama").save_pretrained(folder)
    return folder


def adapted(base, *, seed=0, moved=False, **settings):
    model = load_model(ModelConfig(name=str(base), adapter=AdapterConfig(**(settings or LORA))), seed=seed)
    if moved:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05)
    return model


def logps(model):
    return Scorer(model).score(grow_rows(ROWS), tokens_per_microbatch=10**6).values


def test_a_new_adapter_has_the_log_probs_of_its_base(base):
    assert torch.equal(logps(adapted(base)), logps(load_model(ModelConfig(name=str(base)))))


def test_its_weights_follow_the_seed_and_leave_the_generator_alone(base):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, same, other = (adapted(base, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in m.parameters() if p.requires_grad]) for m in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_adapter_alone_gets_a_gradient_whatever_the_cut(base):
    policy = Scorer(adapted(base, moved=True))
    reference = Scorer(load_model(ModelConfig(name=str(base))))
    found = []
    for budget in (10**6, 40, 21):
        policy.zero_grad()
        accumulate(policy, reference, prefopt.get_loss("dpo"), ROWS, tokens_per_microbatch=budget)
        grads = {name: own.grad for name, own in policy.named_parameters() if own.grad is not None}
        assert all("lora" in name for name in grads)
        found.append(torch.cat([grad.flatten() for grad in grads.values()]))
    for gradient in found[1:]:
        assert torch.dist(gradient, found[0]) <= 2e-5 * found[0].norm()


def test_a_saved_adapter_is_loaded_by_its_path_and_as_a_model(base, tmp_path):
    model = adapted(base, moved=True)
    truth = logps(model)
    assert not torch.equal(truth, logps(load_model(ModelConfig(name=str(base)))))
    model.save_pretrained(tmp_path / "lora")
    by_path = adapted(base, path=str(tmp_path / "lora"))
    as_model = load_model(ModelConfig(name=str(tmp_path / "lora")))
    for loaded in (by_path, as_model):
        assert torch.equal(logps(loaded), truth)
        assert {name.split(".")[-2] for name, own in loaded.named_parameters() if own.requires_grad} == {"default"}


def test_the_dropout_of_a_trained_adapter_is_off(base, tmp_path):
    adapted(base, moved=True).save_pretrained(tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_dropout": 0.5}))
    for model in (adapted(base, path=str(tmp_path / "lora")), load_model(ModelConfig(name=str(tmp_path / "lora")))):
        model.train()
        assert torch.equal(logps(model), logps(model))


def test_an_adapter_on_the_head_is_told_and_exact(base):
    model = adapted(base, r=4, target_modules=["lm_head"], moved=True)
    truth = Scorer(copy.deepcopy(model), packed=False, chunked_head=False)
    scorer, notes = prove(model, grow_rows(ROWS))
    assert scorer.head is None
    assert any("is no plain linear layer" in note for note in notes)
    trees = grow_rows(ROWS)
    torch.testing.assert_close(
        scorer.score(trees, tokens_per_microbatch=10**6).values,
        truth.score(trees, tokens_per_microbatch=1).values,
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lora_alfa": 3}, "unknown key of model.adapter 'lora_alfa'; did you mean 'lora_alpha'?"),
        ({"lora_dropout": 0.1}, "model.adapter.lora_dropout must be 0"),
        ({"r": 0}, "model.adapter"),
        ({"target_modules": ["nothing"]}, "cannot be put into LlamaForCausalLM: .*nothing"),
        ({"path": "/nowhere/at/all"}, "adapter folder '/nowhere/at/all' does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(base, settings, told):
    with pytest.raises((ConfigError, ModelError), match=told) as caught:
        adapted(base, **settings)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_adapter_is_one_sentence(base, tmp_path):
    with pytest.raises(ModelError, match="cannot be put into"):
        adapted(base, path=str(tmp_path))


def test_an_adapter_takes_no_second_one(base, tmp_path):
    adapted(base).save_pretrained(tmp_path / "lora")
    with pytest.raises(ModelError, match="is an adapter and takes no model.adapter"):
        load_model(ModelConfig(name=str(tmp_path / "lora"), adapter=AdapterConfig(r=4)))


@pytest.mark.parametrize("text", ["{}", "not JSON", '{"base_model_name_or_path": null}'])
def test_an_adapter_without_a_base_is_one_sentence(tmp_path, text):
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="names no base model"):
        spelled_out(ModelConfig(name=str(tmp_path)))
