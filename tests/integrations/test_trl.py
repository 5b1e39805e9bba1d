"""Losses inside TRL's DPOTrainer: held against TRL's own where the maths is the same, and against our engine."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

import prefopt
from prefopt.data.row import Completion, Row
from prefopt.engine.accumulation import accumulate
from prefopt.engine.logps import Scorer
from prefopt.weighted import WeightedSum
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model

pytest.importorskip("trl", reason="needs trl (extra `compare`)")

from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from prefopt.integrations.trl import PrefoptDPOTrainer

pytestmark = [
    pytest.mark.usefixtures("own_accelerator"),
    # Names that TRL 1.16 uses and transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning"),
]
REGISTRY = prefopt.load_registry()
DRAWING = {"sampo", "beta_dpo"}  # their numbers are keyed by row, and TRL names no rows
# ours, its hyper-parameters, TRL's loss_type, TRL's settings, TRL's value less ours
SAME = [
    ("dpo", {"beta": 0.1}, "sigmoid", {}, 0),
    ("dpo", {"beta": 0.3}, "sigmoid", {"beta": 0.3}, 0),
    ("ipo", {"tau": 0.2, "length_normalized": True}, "ipo", {"beta": 0.2}, 0),
    ("sft", {}, "sft", {}, 0),
    ("rso_hinge", {"beta": 0.1}, "hinge", {}, 0),
    ("sigmoid_norm", {"beta": 2.0}, "sigmoid_norm", {"beta": 2.0}, 0),
    ("robust", {"beta": 0.1, "label_smoothing": 0.2}, "robust", {"label_smoothing": 0.2}, 0),
    ("exo_pair", {"beta": 0.1, "label_smoothing": 0.01}, "exo_pair", {"label_smoothing": 0.01}, 0),
    ("nca_pair", {"beta": 0.1}, "nca_pair", {}, 0),
    ("sppo_hard", {"beta": 0.1, "scale": 1.0}, "sppo_hard", {}, 0),
    ("apo_zero", {"beta": 0.1, "offset": 0.0}, "apo_zero", {}, 1),
    ("apo_down", {"beta": 0.1, "offset": 0.0}, "apo_down", {}, 1),
    ("discopop", {"beta": 0.1, "tau": 0.05}, "discopop", {}, 0),
    ("aot_paired", {"beta": 0.1}, "aot", {}, 0),
    ("aot_unpaired", {"beta": 0.1}, "aot_unpaired", {}, 0),
    ("wpo", {"beta": 0.1, "clamp": False}, "sigmoid", {"use_weighting": True}, 0),
    ("ld_dpo", {"beta": 0.1, "alpha": 0.3}, "sigmoid", {"ld_alpha": 0.3}, 0),
    ("fdpo", {"beta": 0.1, "divergence": "jensen_shannon"}, "sigmoid", {"f_divergence_type": "js_divergence"}, 0),
]
TRAINED_ALIKE = {"loss", "grad_norm", "entropy", "num_tokens", "mean_token_accuracy", "logps/chosen", "logits/rejected"}


def llama():
    return tiny_model("llama", vocab_size=len(tokenizer("without_bos")))


def neighbour():
    """A reference a few nats away from the policy."""
    model = llama()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def config(folder, **settings):
    chosen = {
        "per_device_train_batch_size": 3,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "use_cpu": True,
    }
    return DPOConfig(output_dir=str(folder), **{**chosen, **settings})


@pytest.fixture
def rows(pair_rows):
    """Completions of several lengths, so that padding, means over tokens and means over rows differ."""
    return Dataset.from_list(
        [{**row, "chosen": row["chosen"] + " and more" * (place % 4)} for place, row in enumerate(pair_rows)]
    )


@pytest.fixture
def build(tmp_path, rows):
    def build(cls, *, reference=True, **settings):
        options = {key: settings.pop(key) for key in ("loss", "eval_dataset", "model", "ref_model") if key in settings}
        return cls(
            **{"model": llama(), "ref_model": neighbour() if reference else None, **options},
            args=config(tmp_path / "out", **settings),
            train_dataset=rows,
            processing_class=tokenizer("without_bos"),
        )

    return build


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def steps(trainer):
    return [entry for entry in trainer.state.log_history if "grad_norm" in entry]


def micro_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def value_and_gradient(trainer, inputs):
    trainer.model.train()
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


def as_rows(inputs):
    """The rows of the engine that hold the same token ids."""

    def split(place):
        scored, real = inputs["completion_mask"][place].bool(), inputs["attention_mask"][place].bool()
        ids = inputs["input_ids"][place]
        return tuple(ids[real & ~scored].tolist()), tuple(ids[scored].tolist())

    half = len(inputs["input_ids"]) // 2
    found = []
    for place in range(half):
        prompt, chosen = split(place)
        _, rejected = split(place + half)
        own = tuple(Completion(ids, (True,) * len(ids)) for ids in (chosen, rejected))
        found.append(Row(kind="pairs", source="trl", number=place + 1, prompt=prompt, completions=own))
    return found


def by_engine(loss, inputs):
    model, reference = llama(), Scorer(neighbour())
    result = accumulate(
        Scorer(model), reference if loss.needs.reference else None, loss, as_rows(inputs), tokens_per_microbatch=10**6
    )
    return result.loss, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def trainable(loss):
    needs = loss.needs
    return "pairs" in needs.rows and not (needs.scores or needs.mismatched or needs.distribution == "both")


# The same maths as TRL -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ours", "loss_type", "theirs", "constant"), SAME)
def test_three_steps_are_those_of_trl(build, rows, name, ours, loss_type, theirs, constant):
    loss = REGISTRY.loss(name, **ours)
    mine = build(PrefoptDPOTrainer, loss=loss, reference=loss.needs.reference, eval_dataset=rows)
    trls = build(DPOTrainer, loss_type=loss_type, eval_dataset=rows, **theirs)
    before = weights(mine)
    for trainer in (mine, trls):
        trainer.train()
    moved = weights(trls) - before
    assert moved.norm() > 0
    assert (weights(mine) - before - moved).norm() <= 1e-3 * moved.norm()
    assert len(steps(mine)) == 3
    for own, other in zip(steps(mine), steps(trls), strict=True):
        assert own.keys() - {key for key in own if key.startswith("loss/")} == other.keys()
        other["loss"] -= constant
        # With ld_alpha TRL logs the scaled sums as log-probs.
        for key in TRAINED_ALIKE - ({"logps/chosen"} if "ld_alpha" in theirs else set()):
            assert own[key] == pytest.approx(other[key], rel=2e-4, abs=1e-6), key
    assert mine.evaluate()["eval_loss"] == pytest.approx(trls.evaluate()["eval_loss"] - constant, rel=1e-4, abs=1e-5)


def test_rewards_are_logged_as_trl_logs_them(build, rows):
    mine = build(PrefoptDPOTrainer, loss="dpo", eval_dataset=rows)
    trls = build(DPOTrainer, eval_dataset=rows)
    for trainer in (mine, trls):
        trainer.train()
    for own, other in [*zip(steps(mine), steps(trls), strict=True), (mine.evaluate(), trls.evaluate())]:
        for key in (key for key in other if "rewards/" in key):
            assert own[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key


def test_accumulated_micro_batches_are_those_of_trl(build):
    settings = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1}
    mine, trls = build(PrefoptDPOTrainer, loss="dpo", **settings), build(DPOTrainer, **settings)
    for trainer in (mine, trls):
        trainer.train()
    torch.testing.assert_close(weights(mine), weights(trls), rtol=1e-5, atol=1e-7)


def test_a_weighted_sum_is_trls_list_of_losses(build):
    loss = WeightedSum(((1.0, REGISTRY.loss("dpo")), (0.2, REGISTRY.loss("sft"))))
    mine = build(PrefoptDPOTrainer, loss=loss)
    trls = build(DPOTrainer, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2])
    for trainer in (mine, trls):
        trainer.train()
    torch.testing.assert_close(weights(mine), weights(trls), rtol=1e-5, atol=1e-7)
    assert steps(mine)[1]["rewards/margins"] == pytest.approx(steps(trls)[1]["rewards/margins"], rel=1e-4)


# The same as our engine ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in REGISTRY.losses.items() if trainable(cls) and name not in DRAWING)
)
def test_value_and_gradient_are_those_of_the_engine(build, name):
    loss = REGISTRY.loss(name)
    trainer = build(PrefoptDPOTrainer, loss=loss, reference=loss.needs.reference)
    inputs = micro_batch(trainer)
    value, gradient = value_and_gradient(trainer, inputs)
    expected, slope = by_engine(loss, inputs)
    assert value == pytest.approx(expected, rel=1e-4)
    assert (gradient - slope).norm() <= 1e-4 * slope.norm()
    assert math.isfinite(value)


def test_rewards_are_the_loss_s_own(build):
    loss = REGISTRY.loss("simpo", beta=3.0)
    trainer = build(PrefoptDPOTrainer, loss=loss, reference=False)
    inputs = micro_batch(trainer)
    trainer.compute_loss(trainer.model, inputs)
    mask = inputs["completion_mask"][:, 1:]
    logps = trainer.model(**{key: inputs[key] for key in ("input_ids", "attention_mask")}).logits.log_softmax(-1)
    logps = logps[:, :-1].gather(2, inputs["input_ids"][:, 1:, None])[..., 0]
    chosen, rejected = (3.0 * (logps * mask).sum(1) / mask.sum(1)).chunk(2)
    # One value each: TRL's rewards have made room.
    logged = {name: value for name, (value,) in trainer._metrics["train"].items()}
    assert logged["rewards/chosen"] == pytest.approx(chosen.mean().item(), rel=1e-5)
    assert logged["rewards/margins"] == pytest.approx((chosen - rejected).mean().item(), rel=1e-4)
    assert logged["rewards/accuracies"] == pytest.approx((chosen > rejected).float().mean().item())


# The reference -------------------------------------------------------------------------------------------------------


def test_a_loss_without_a_reference_loads_and_runs_none(build, rows):
    trainer = build(PrefoptDPOTrainer, loss="simpo", reference=False, eval_dataset=rows)
    assert trainer.ref_model is None
    assert not trainer.args.precompute_ref_log_probs
    calls = []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == 3
    assert "ref_chosen_logps" not in trainer.train_dataset.column_names
    trainer.evaluate(rows)  # TRL refuses new rows after a step where it holds a reference for precomputed


def test_precomputed_sums_give_what_a_live_reference_gives(build):
    live = build(PrefoptDPOTrainer, loss="dpo", ref_model=llama())
    stored = build(PrefoptDPOTrainer, loss="dpo", reference=False, precompute_ref_log_probs=True)
    for trainer in (live, stored):
        trainer.train()
    assert stored.ref_model is None
    assert "ref_chosen_logps" in stored.train_dataset.column_names
    torch.testing.assert_close(weights(stored), weights(live), rtol=1e-5, atol=1e-7)


def test_an_adapter_is_trained_against_its_base(build, rows):
    peft = pytest.importorskip("peft", reason="needs peft")
    torch.manual_seed(0)

    def adapted():
        torch.manual_seed(0)
        return peft.get_peft_model(llama(), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))

    mine = build(PrefoptDPOTrainer, loss="dpo", reference=False, model=adapted())
    trls = build(DPOTrainer, reference=False, model=adapted())
    for trainer in (mine, trls):
        trainer.train()
    torch.testing.assert_close(weights(mine), weights(trls), rtol=1e-5, atol=1e-7)
    assert steps(mine)[2]["rewards/margins"] != 0


# State and random numbers --------------------------------------------------------------------------------------------


class Counting(prefopt.PairLoss):
    """Its value counts the batches so far."""

    name = "counting"
    needs = prefopt.Needs(rows={"pairs"}, state=True)

    def initial_state(self):
        return {"batches": torch.zeros(())}

    def values(self, batch):
        batches = batch.state["batches"] + 1
        losses = batch.chosen.policy * 0 + batches
        return prefopt.LossOutput(losses, metrics={"seen": losses}, state={"batches": batches})

    def reward(self, completions):
        return completions.policy


def test_state_moves_on_in_training_alone(build, rows):
    trainer = build(PrefoptDPOTrainer, loss=Counting(), reference=False, eval_dataset=rows, eval_strategy="steps")
    trainer.args.eval_steps = 1
    trainer.train()
    assert trainer.loss_state["batches"] == 3
    assert [entry["loss/seen"] for entry in steps(trainer)] == [1, 2, 3]
    assert trainer.evaluate()["eval_loss"] == 4
    assert trainer.loss_state["batches"] == 3


def test_a_checkpoint_carries_the_state(build, tmp_path):
    settings = {"loss": Counting(), "reference": False, "save_strategy": "steps", "save_steps": 2}
    build(PrefoptDPOTrainer, **settings).train()
    resumed = build(PrefoptDPOTrainer, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert resumed.loss_state["batches"] == 3
    assert [entry["loss/seen"] for entry in steps(resumed)][-1] == 3


class Drawing(prefopt.PairLoss):
    """Its value is a random number of the row."""

    name = "drawing"
    needs = prefopt.Needs(rows={"pairs"})

    def values(self, batch):
        drawn = batch.draws.uniform([1] * len(batch)).to(batch.chosen.policy)
        return prefopt.LossOutput(batch.chosen.policy * 0 + drawn, metrics={"drawn": drawn})

    def reward(self, completions):
        return completions.policy


def drawn(trainer, places):
    examples = [trainer.train_dataset[place] for place in places]
    trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    return trainer._metrics["train"]["loss/drawn"][-1]


def test_random_numbers_belong_to_seed_step_and_tokens_alone(build):
    trainer = build(PrefoptDPOTrainer, loss=Drawing(), reference=False)
    alone = [drawn(trainer, [place]) for place in range(4)]
    assert len(set(alone)) == 4
    # other company, other padding, another order
    assert drawn(trainer, [3, 0, 2]) == pytest.approx((alone[3] + alone[0] + alone[2]) / 3)
    trainer.state.global_step = 1
    assert drawn(trainer, [0]) != alone[0]
    trainer.state.global_step, trainer.args.seed = 0, 1
    assert drawn(trainer, [0]) != alone[0]


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_losses_that_draw_train(build, name):
    trainer = build(PrefoptDPOTrainer, loss=REGISTRY.loss(name))
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in steps(trainer))


# Refusals and warnings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss_type": "hinge"}, r"loss_type = \['hinge'\] would change nothing.*name the loss in `loss`"),
        ({"loss_weights": [0.5]}, "WeightedSum"),
        ({"beta": 0.5}, "beta = 0.5 would change nothing.*set `beta` of the loss"),
        ({"label_smoothing": 0.1}, "set `label_smoothing`"),
        ({"f_divergence_type": "js_divergence"}, "set `divergence`"),
        ({"f_alpha_divergence_coef": 0.3}, "set `alpha`"),
        ({"ld_alpha": 0.5}, "set `alpha`"),
        ({"use_weighting": True}, "weighs its pairs"),
        ({"discopop_tau": 0.1}, "set `tau`"),
        ({"precompute_ref_log_probs": True}, "reads no reference.*precompute_ref_log_probs"),
        ({"precompute_ref_batch_size": 4}, "reads no reference.*precompute_ref_batch_size"),
        ({"sync_ref_model": True}, "reads no reference.*sync_ref_model"),
        ({"reference": True}, "reads no reference.*ref_model"),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(build, settings, said):
    with pytest.raises(prefopt.ConfigError, match=said):
        build(PrefoptDPOTrainer, loss="simpo", **{"reference": False, **settings})


def test_trl_has_no_setting_of_its_losses_that_is_not_read_here():
    """A new setting in the block of the loss in DPOConfig needs a decision here."""
    names = [*DPOConfig.__dataclass_fields__]
    ours = ["loss_type", "loss_weights", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef", "label_smoothing"]
    ours += ["beta", "use_weighting", "discopop_tau", "activation_offloading", "sync_ref_model"]
    assert names[names.index("loss_type") : names.index("ref_model_mixup_alpha")] == ours


def test_the_beta_of_the_loss_may_stand_in_both_places(build):
    trainer = build(PrefoptDPOTrainer, loss=REGISTRY.loss("dpo", beta=0.3), beta=0.3)
    assert trainer.loss.beta == 0.3


def needing(**needs):
    declared = prefopt.Needs(**{"rows": {"pairs"}, **needs})
    return type("Needing", (Drawing,), {"__module__": __name__, "name": "needing", "needs": declared})()


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        ({"rows": {"labels"}}, "needs rows of labels"),
        ({"rows": {"rankings"}}, "needs rows of rankings"),
        ({"scores": True}, "needs scores"),
        ({"mismatched": True}, "needs mismatched completions"),
        ({"distribution": "both"}, "needs the reference's whole distribution"),
    ],
)
def test_a_loss_that_needs_what_trl_has_not_is_refused(build, needs, said):
    with pytest.raises(prefopt.ConfigError, match=f"loss needing {said}, which DPOTrainer has not"):
        build(PrefoptDPOTrainer, loss=needing(**needs))


def test_precomputed_sums_are_refused_for_a_loss_that_reads_tokens(build):
    loss = needing(reference=True, tokens=True)
    with pytest.raises(prefopt.ConfigError, match="every token, and TRL precomputes sums alone"):
        build(PrefoptDPOTrainer, loss=loss, precompute_ref_log_probs=True)


@pytest.mark.parametrize("loss", [None, prefopt.PairLoss, 3])
def test_what_is_no_loss_is_refused(build, loss):
    with pytest.raises(prefopt.ConfigError, match="must be the name of a loss"):
        build(PrefoptDPOTrainer, loss=loss)


def test_an_unknown_name_is_refused_with_the_nearest(build):
    with pytest.raises(prefopt.UnknownNameError, match="did you mean 'simpo'"):
        build(PrefoptDPOTrainer, loss="simppo")


def test_a_loss_that_reads_the_whole_batch_warns_once_where_trl_cuts_it(build):
    settings = {"loss": Counting(), "reference": False, "per_device_train_batch_size": 1}
    with pytest.warns(UserWarning, match="loss counting reads the whole optimiser batch"):
        trainer = build(PrefoptDPOTrainer, gradient_accumulation_steps=2, **settings)
    # Warnings are errors in these tests, so what follows gives none.
    trainer.train()
    build(PrefoptDPOTrainer, **settings)
    build(PrefoptDPOTrainer, loss="simpo", reference=False, gradient_accumulation_steps=2)


def test_the_given_config_is_left_alone_and_the_trainer_s_says_what_was_trained(build, tmp_path, rows):
    given = config(tmp_path / "out")
    words = tokenizer("without_bos")
    trainer = PrefoptDPOTrainer(llama(), None, given, loss="simpo", train_dataset=rows, processing_class=words)
    assert (given.loss_type, given.precompute_ref_log_probs, given.use_weighting) == (["sigmoid"], False, False)
    assert trainer.args.loss_type == ["SimPO(beta=2.0, gamma=0.5)"]
    trainer.create_model_card("tiny")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "prefopt" in card
    assert "Direct Preference Optimization" not in card


# Imports -------------------------------------------------------------------------------------------------------------


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_prefopt_does_not_import_trl():
    assert run("import prefopt, prefopt.cli.app, sys; assert 'trl' not in sys.modules").returncode == 0


def test_without_trl_the_import_names_the_extra():
    done = run("import sys; sys.modules['trl'] = None; import prefopt.integrations.trl")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: prefopt.integrations.trl needs trl; pip install 'prefopt[compare]'"
    )
