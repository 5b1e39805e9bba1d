from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import prefopt
from prefopt.config import AdapterConfig, ModelConfig
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.adapted import adapter_weights
from prefopt.engine.adapters import Adapter, spelled_out
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from prefopt.errors import ConfigError, ModelError
from prefopt.training.saving import save_policy
from tests.data.tokenizers import tokenizer
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
        ({"peft_type": "lorra"}, "unknown model.adapter.peft_type 'lorra'; did you mean 'lora'?"),
        (
            {"peft_type": "prompt_tuning"},
            "model.adapter.peft_type 'prompt_tuning' puts virtual tokens before the prompt",
        ),
        (
            {"peft_type": "prefix_tuning"},
            "model.adapter.peft_type 'prefix_tuning' puts virtual tokens before the prompt",
        ),
        ({"peft_type": "adaption_prompt"}, "model.adapter.peft_type 'adaption_prompt' puts virtual tokens"),
        ({"peft_type": "xlora"}, "model.adapter.peft_type 'xlora' mixes other adapters"),
        ({"peft_type": "AdaLora", "total_step": 9}, "model.adapter.peft_type 'adalora' moves its ranks about"),
        ({"peft_type": "ia3", "r": 4}, "unknown key of model.adapter 'r'"),
        ({"peft_type": "loha", "module_dropout": 0.5}, "model.adapter.module_dropout must be 0"),
        ({"alora_invocation_tokens": [3]}, "model.adapter.alora_invocation_tokens looks for its tokens"),
        ({"inference_mode": True}, "leaves nothing in LlamaForCausalLM to train"),
        ({**LORA, "rank_pattern": {"k_proj": 2}}, r"rank_pattern keys did not match any .* ignored: \['k_proj'\]"),
        ({**LORA, "exclude_modules": ["nothing"]}, "no modules were excluded"),
        ({"target_modules": ["nothing"]}, "cannot be put into LlamaForCausalLM: .*nothing"),
        ({"path": "/nowhere/at/all"}, "adapter folder '/nowhere/at/all' does not exist"),
    ],
)
def test_a_mistake_is_one_sentence(base, settings, told):
    with pytest.raises((ConfigError, ModelError), match=told) as caught:
        adapted(base, **settings)
    assert "\n" not in str(caught.value)


def test_a_folder_of_a_type_that_is_refused_is_one_sentence(base, tmp_path):
    adapted(base).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "POLY", "base_model_name_or_path": str(base)}))
    with pytest.raises(ConfigError, match="its peft_type 'poly' reads a task beside every row"):
        adapted(base, path=str(tmp_path))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("drop", "lacks 1 weights of its own settings, .*lora_A"),
        ("add", "holds weights that nothing in LlamaForCausalLM takes"),
    ],
)
def test_an_adapter_with_other_weights_than_its_settings_is_refused(base, tmp_path, change, told):
    adapted(base, moved=True).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    first = min(name for name in weights if "lora_A" in name)
    if change == "drop":
        del weights[first]
    else:
        weights[first.replace("layers.0", "layers.7")] = torch.zeros(4, 32)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=told):
        adapted(base, path=str(tmp_path))


def test_adapter_weights_of_a_model_in_bfloat16_are_float32(base):
    model = load_model(ModelConfig(name=str(base), dtype="bfloat16", adapter=AdapterConfig(**LORA)))
    assert {own.dtype for own in model.parameters() if own.requires_grad} == {torch.float32}
    assert {own.dtype for own in model.parameters() if not own.requires_grad} == {torch.bfloat16}
    assert prove(model, grow_rows(ROWS))[0].packed


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft"])
def test_no_dropout_of_another_type_is_on_either(base, tmp_path, kind):
    adapted(base, peft_type=kind, target_modules=["q_proj"], **({"oft_block_size": 8, "r": 0} if kind == "oft" else {}))
    model = adapted(
        base,
        moved=True,
        peft_type=kind,
        target_modules=["q_proj"],
        **({"oft_block_size": 8, "r": 0} if kind == "oft" else {}),
    )
    save_policy(model, tokenizer("without_bos"), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"module_dropout": 0.5, "rank_dropout": 0.5}))
    if kind == "oft":
        path.write_text(json.dumps({n: v for n, v in json.loads(path.read_text()).items() if n != "rank_dropout"}))
    loaded = adapted(base, path=str(tmp_path)).train()
    assert torch.equal(logps(loaded), logps(model))


def test_what_is_saved_names_the_revision_of_its_base(base):
    model = tiny_model("llama")
    Adapter(AdapterConfig(**LORA)).attach(model, 0, revision="v2")
    assert adapter_weights(model)[1].revision == "v2"


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


def test_a_module_to_save_that_is_not_there_is_refused(model_folder):
    with pytest.raises(ModelError, match="modules_to_save names 'nope', and LlamaForCausalLM has no such module"):
        load_model(ModelConfig(name=str(model_folder), adapter=AdapterConfig(r=2, modules_to_save=["nope"])))


def test_a_task_that_is_not_trained_is_refused():
    with pytest.raises(ConfigError, match="task_type = 'TOKEN_CLS' has no effect"):
        Adapter(AdapterConfig(r=2, task_type="TOKEN_CLS"))
