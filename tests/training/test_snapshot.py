from __future__ import annotations

import copy

import pytest
import torch

import prefopt
from prefopt.config import CheckpointsConfig, ReferenceConfig, TrainingConfig
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE
from prefopt.errors import OutputError
from prefopt.training.checkpoints import Checkpoints, read_snapshot
from prefopt.training.trainer import Trainer
from tests.engine.rows import kind_of, random_rows
from tests.models import tiny_model

REGISTRY = prefopt.load_registry()


def build(loss="dpo", moving=None, dtype=torch.float32, steps=6, **settings):
    loss = REGISTRY.loss(loss)
    policy = Scorer(tiny_model("llama", dtype=dtype))
    reference = Scorer(tiny_model("llama", seed=1, dtype=dtype)) if loss.needs.reference else None
    settings = {"batch_size": 4, "learning_rate": 1e-2, "scheduler": "cosine", "max_steps": steps, **settings}
    return Trainer(policy, reference, loss, random_rows(kind_of(loss), 10), TrainingConfig(**settings), moving=moving)


def finish(trainer):
    steps = []
    trainer.run(lambda step: steps.append({k: v for k, v in step.metrics.items() if not k.endswith(TIMES)}))
    return steps


TIMES = ("_seconds", "_per_second", "_bytes")


class Halfway(Exception):
    pass


def interrupted(folder, at, **settings):
    """Train up to a step, keep a checkpoint on disk, and give up that trainer."""
    trainer = build(**settings)

    def stop(step):
        if step.number == at:
            Checkpoints(folder, CheckpointsConfig(), ALONE).keep(trainer.snapshot(), {})
            raise Halfway

    with pytest.raises(Halfway):
        trainer.run(stop)
    return folder / f"step-{at:08d}"


CASES = {
    "dpo": {},
    "kto": {"loss": "kto"},
    "bco, which carries a mean": {"loss": "bco"},
    "beta_dpo, which draws and carries": {"loss": "beta_dpo"},
    "rmsprop": {"optimizer": "rmsprop"},
    "sgd": {"optimizer": "sgd"},
    "adafactor": {"optimizer": "adafactor"},
    "bfloat16": {"dtype": torch.bfloat16},
    "adafactor in bfloat16": {"optimizer": "adafactor", "dtype": torch.bfloat16},
    "a reference that moves": {"moving": ReferenceConfig(update_steps=2, update_weight=0.5)},
    "gradient checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("at", [1, 4])
def test_going_on_from_disk_is_as_if_nothing_had_happened(tmp_path, case, at):
    settings = CASES[case]
    whole = build(**settings)
    steps = finish(whole)
    checkpoint = interrupted(tmp_path, at, **settings)
    again = build(**settings)
    again.restore(read_snapshot(checkpoint, ALONE))
    assert finish(again) == steps[at:]
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, again.policy.state_dict()[name]), name
    assert {name: value.tolist() for name, value in whole.state.items()} == {
        name: value.tolist() for name, value in again.state.items()
    }


def test_a_run_may_be_made_longer(tmp_path):
    checkpoint = interrupted(tmp_path, 4, scheduler="constant")
    longer = build(steps=9, scheduler="constant")
    longer.restore(read_snapshot(checkpoint, ALONE))
    assert finish(longer) == finish(build(steps=9, scheduler="constant"))[4:]


def test_the_random_numbers_go_on(tmp_path):
    trainer = build()
    torch.rand(3)
    taken = copy.deepcopy(trainer.snapshot())
    drawn = torch.rand(2)
    trainer.restore(taken)
    assert torch.equal(torch.rand(2), drawn)


def test_weights_of_another_model_are_refused(tmp_path):
    taken = build().snapshot()
    other = Trainer(
        Scorer(tiny_model("gpt2")),
        Scorer(tiny_model("gpt2")),
        REGISTRY.loss("dpo"),
        random_rows("pairs", 4),
        TrainingConfig(),
    )
    with pytest.raises(OutputError, match="holds other weights than this run trains"):
        other.restore(taken)
