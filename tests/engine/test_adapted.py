from __future__ import annotations

import copy

import pytest
import torch

import prefopt
from prefopt.config import AdapterConfig, ModelConfig
from prefopt.data.trees import grow_rows
from prefopt.engine.accumulation import accumulate
from prefopt.engine.adapted import adapter_weights, base_of, changes_base, merged, twin
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from tests.engine.rows import random_rows
from tests.models import tiny_model

peft = pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),  # of torch, at peft's SHiRA
    # What peft says of single types, and users are shown too.
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term"),
    pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type"),
    pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor to 1"),
]
ROWS = random_rows("pairs", 3)
TARGETS = ["q_proj", "v_proj", "down_proj"]
# What each type needs beyond its defaults to fit a model of 32 hidden units.
TYPES = {
    "lora": {"r": 4},
    "beft": {"init_weights": True},
    "boft": {"boft_block_size": 8},
    "c3a": {"block_size": 8, "init_weights": True},
    "delora": {"r": 4},
    "fourierft": {"n_frequency": 20, "init_weights": True},
    "glora": {"r": 4},
    "gralora": {"r": 4, "gralora_k": 2},
    "hira": {"r": 4},
    "hra": {"r": 4},
    "ia3": {"feedforward_modules": ["down_proj"]},
    "lily": {"r": 4},
    "ln_tuning": {"target_modules": ["input_layernorm"]},
    "loha": {"r": 4},
    "lokr": {"r": 4},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 8, "r": 0},
    "osf": {},
    "peanut": {},
    "randlora": {"r": 4},
    "shira": {"r": 2},
    "supertuning": {},
    "tinylora": {},
    "trainable_tokens": {"token_indices": [3, 4], "target_modules": ["embed_tokens"]},
    "unilora": {},
    "vblora": {"r": 4, "num_vectors": 16, "vector_length": 8},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 20},
}
FLAVOURS = {
    "dora": {"r": 4, "use_dora": True},
    "rslora": {"r": 4, "use_rslora": True},
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "biases": {"r": 4, "bias": "all"},
    "head": {"r": 4, "target_modules": [*TARGETS, "lm_head"]},
    "embeddings": {"r": 4, "target_modules": [*TARGETS, "embed_tokens"]},
    "whole head": {"r": 4, "modules_to_save": ["lm_head"]},
    "whole embeddings": {"r": 4, "modules_to_save": ["embed_tokens"]},
    "tokens": {"r": 4, "trainable_token_indices": [3, 4, 5]},
    "pissa": {"r": 4, "init_lora_weights": "pissa"},
    "random": {"r": 4, "init_lora_weights": False},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model whose embeddings are its head, one that has both, and one with biases."""
    found = {}
    for name, tied in (("llama", False), ("llama", True), ("qwen2", False)):
        model = tiny_model(name, dtype=torch.float64)
        if tied:
            model.config.tie_word_embeddings = True
            model.tie_weights()
        folder = tmp_path_factory.mktemp("models") / f"{name} {tied}"
        model.save_pretrained(folder)
        found[f"{name}, tied" if tied else name] = folder
    return found


def dtype(name):
    return "float32" if name == "pissa" else "float64"  # peft's own demand


def settings(name):
    own = FLAVOURS.get(name) or {"peft_type": name, **TYPES[name]}
    return own if name in ("ia3", "osf") and "target_modules" in own else {"target_modules": TARGETS, **own}


def adapted(folder, name="lora", *, moved=True, **more):
    model = load_model(
        ModelConfig(name=str(folder), dtype=dtype(name), adapter=AdapterConfig(**{**settings(name), **more})), seed=3
    )
    if moved:
        move(model)
    return model


@torch.no_grad()
def move(model):
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.03 * torch.randn_like(parameter))


def logps(model):
    return Scorer(model, chunked_head=False).score(grow_rows(ROWS), tokens_per_microbatch=10**6).values


def own_bytes(model, other):
    """Memory of a model's weights that is not another's too."""
    theirs = {own.untyped_storage().data_ptr() for own in (*other.parameters(), *other.buffers())}
    own = {each.untyped_storage().data_ptr(): each.nbytes for each in (*model.parameters(), *model.buffers())}
    return sum(size for place, size in own.items() if place not in theirs)


CASES = [*((name, "llama") for name in (*TYPES, *FLAVOURS) if name != "biases"), ("biases", "qwen2")]
CASES += [
    (name, "llama, tied") for name in ("lora", "tokens", "head", "embeddings", "whole head", "whole embeddings", "dora")
]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_a_twin_the_base_and_the_merged_model_are_what_they_say(folders, name, model):
    base = logps(load_model(ModelConfig(name=str(folders[model]), dtype=dtype(name))))
    policy = adapted(folders[model], name)
    truth, trained = logps(policy), {each for each, own in policy.named_parameters() if own.requires_grad}
    assert (truth - base).abs().max() > 1e-4
    as_it_is = twin(policy)
    assert torch.equal(logps(as_it_is), truth)
    size = sum(own.nbytes for own in policy.parameters() if own.requires_grad)
    assert own_bytes(as_it_is, policy) == size
    if changes_base(policy):
        assert name in ("pissa", "biases")
    else:
        without = base_of(policy)
        assert torch.equal(logps(without), base)
        assert own_bytes(without, policy) == 0
        assert not any(own.requires_grad for own in without.parameters())
        assert not any(isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer) for module in without.modules())
    if name not in ("lily", "beft"):  # peft has no merge for them
        together = merged(policy)
        torch.testing.assert_close(logps(together), truth, rtol=0, atol=1e-4)
    assert torch.equal(logps(policy), truth)
    assert {each for each, own in policy.named_parameters() if own.requires_grad} == trained


@pytest.mark.parametrize("name", [*FLAVOURS, "vera", "oft", "loha"])
def test_training_the_policy_leaves_its_twin_and_its_base_where_they_are(folders, name):
    policy = adapted(folders["qwen2" if name == "biases" else "llama"], name)
    twins = [twin(policy)] if changes_base(policy) else [twin(policy), base_of(policy)]
    before = [logps(each) for each in twins]
    optimizer = torch.optim.SGD([own for own in policy.parameters() if own.requires_grad], lr=0.1)
    for _ in range(2):
        reference = Scorer(twins[-1])
        accumulate(Scorer(policy), reference, prefopt.get_loss("dpo"), ROWS, tokens_per_microbatch=60)
        optimizer.step()
    for each, found in zip(twins, before, strict=True):
        assert torch.equal(logps(each), found)
        assert not any(own.requires_grad for own in each.parameters())


@pytest.mark.parametrize("name", ["lora", "head", "embeddings", "whole head", "whole embeddings", "tokens", "dora"])
@pytest.mark.parametrize("model", ["llama", "llama, tied"])
def test_gradients_are_those_of_the_dense_model_whatever_the_adapter_holds(folders, name, model):
    """An independent path: one row at a time through the model's own forward, the loss written out."""
    policy = adapted(folders[model], name)
    scorer, _ = prove(policy, grow_rows(ROWS))
    # A head that is trained whole, or not at all, is a plain layer; the rows of one that is tied to others are not.
    wrapped = name == "head" or (name in ("tokens", "embeddings") and model == "llama, tied")
    assert (scorer.head is None) == (wrapped and name != "embeddings")
    accumulate(scorer, None, prefopt.get_loss("simpo"), ROWS, tokens_per_microbatch=50)
    found = {each: own.grad.clone() for each, own in policy.named_parameters() if own.grad is not None}
    policy.zero_grad()
    total = 0
    for row in ROWS:
        means = []
        for own in row.completions:
            ids = torch.tensor([row.prompt + own.ids])
            logits = policy(ids).logits[0].log_softmax(-1)
            places = [len(row.prompt) + place - 1 for place, scored in enumerate(own.scored) if scored]
            means.append(torch.stack([logits[place, ids[0, place + 1]] for place in places]).mean())
        simpo = prefopt.get_loss("simpo")
        margin = simpo.beta * (means[0] - means[1]) - simpo.gamma
        total = total - row.weight * torch.nn.functional.logsigmoid(margin)
    (total / sum(row.weight for row in ROWS)).backward()
    truth = {each: own.grad for each, own in policy.named_parameters() if own.grad is not None}
    assert set(found) == set(truth) == {each for each, own in policy.named_parameters() if own.requires_grad}
    for each, own in truth.items():
        assert torch.dist(found[each], own) <= 1e-6 * own.norm(), each  # Llama's norms round to float32


@pytest.mark.parametrize("name", [*FLAVOURS, *TYPES])
def test_what_is_saved_is_what_is_loaded(folders, name, tmp_path):
    folder = folders["qwen2" if name == "biases" else "llama"]
    policy = adapted(folder, name)
    weights, config = adapter_weights(policy)
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(name=str(tmp_path), dtype=dtype(name)))
    torch.testing.assert_close(logps(loaded), logps(policy), rtol=0, atol=1e-5)
    assert {each for each, own in loaded.named_parameters() if own.requires_grad} == {
        each for each, own in policy.named_parameters() if own.requires_grad
    }


@pytest.mark.parametrize("name", [*FLAVOURS, *TYPES])
def test_an_adapter_begins_as_its_base_where_the_config_says_so(folders, name):
    folder = folders["qwen2" if name == "biases" else "llama"]
    told = AdapterConfig(**settings(name))
    base = load_model(ModelConfig(name=str(folder), dtype=dtype(name)))
    gap = logps(adapted(folder, name, moved=False)) - logps(base)
    if told.begins_as_base:
        assert gap.abs().max() <= (1e-12 if name == "dora" else 0)
    else:
        assert name in ("hra", "osf", "unilora", "vblora", "pissa", "random")


def test_a_model_with_gradient_checkpointing_is_merged_while_it_trains(folders):
    policy = adapted(folders["llama"])
    policy.train()
    policy.activation_checkpointing_enable()
    Scorer(policy)(Scorer(policy).lay_out(grow_rows(ROWS))).sum().backward()
    together = merged(policy)
    torch.testing.assert_close(logps(together), logps(copy.deepcopy(policy)), rtol=0, atol=1e-4)
