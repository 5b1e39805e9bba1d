"""Two gloo processes under DeepSpeed ZeRO 1, 2 and 3: the curves of one, what is kept, what is refused, a whole run.

DeepSpeed is an extra. On a CPU it compiles its exchange of tensors once, which takes minutes and a C++ compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import prefopt
from prefopt.config import TrainingConfig, load_config
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError
from prefopt.run import run
from prefopt.training.optimization import build_optimizer
from prefopt.training.zero import settle
from tests.models import tiny_model
from tests.training.runs import TRAINING, case_trainer, curve, metrics_of
from tests.training.zero_processes import CLIPPED, save

ROOT = Path(__file__).resolve().parents[2]
WORDS = "red green blue white black yellow brown grey pink".split()
# In stage 3 every weight is divided and no two share a group of the optimiser, however small they are.
CONFIGS = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2 offloaded": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
    "zero3": {"stage": 3, "stage3_param_persistence_threshold": 0, "sub_group_size": 5000},
    "zero3 kept whole": {"stage": 3},
}


def settings(model_folder, rows, out):
    return {
        "model": str(model_folder),
        "data": {"train": str(rows), "evaluation": 3},
        "loss": "dpo",
        "training": {"batch_size": 4, "learning_rate": 1e-3, "max_steps": 6},
        "evaluation": {"every_steps": 2},
        "checkpoints": {"every_steps": 3, "keep_best": "loss"},
        "output_dir": str(out),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model_folder):
    """What one process finds: curves, saved models, and a whole run."""
    folder = tmp_path_factory.mktemp("alone")
    curves = {}
    for loss in ("dpo", "kto"):
        for weights in ("full", "lora"):
            trainer = case_trainer(loss, "float32", weights)
            curves[f"{loss} {weights}"] = curve(metrics_of(trainer))
            if loss == "dpo":
                save(trainer, folder / weights)
    curves["clipped"] = curve(metrics_of(case_trainer("dpo", "float32", "full", **CLIPPED)))
    assert min(norm for _, norm, *_ in curves["clipped"]) > CLIPPED["max_grad_norm"]
    pairs = [{"prompt": f"Tell me about {one}.", "chosen": f" I like {one}", "rejected": f" {one}"} for one in WORDS]
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings(model_folder, rows, folder / "run")))
    run(load_config(config), prefopt.get_loss("dpo"))
    return folder, curves


@pytest.fixture(scope="module", params=CONFIGS)
def together(request, alone, tmp_path_factory, model_folder):
    """What two processes find under one DeepSpeed config."""
    folder = tmp_path_factory.mktemp("together")
    of_deepspeed, config = folder / "deepspeed.json", folder / "run.yaml"
    of_deepspeed.write_text(json.dumps({"zero_optimization": CONFIGS[request.param], "gradient_clipping": 123.0}))
    config.write_text(yaml.safe_dump(settings(model_folder, alone[0] / "rows.jsonl", folder / "run")))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    script = [str(Path(__file__).with_name("zero_processes.py")), str(of_deepspeed), str(folder / "rank"), str(folder)]
    done = subprocess.run(
        [*command, *script, str(config)], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return request.param, folder, [json.loads((folder / f"rank{rank}").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
class TestTwoProcesses:
    def test_the_curves_are_those_of_one(self, alone, together):
        for found in together[2]:
            assert set(found["curves"]) == set(alone[1])
            for case, expected in alone[1].items():
                assert len(expected) == 20
                torch.testing.assert_close(
                    torch.tensor(found["curves"][case]), torch.tensor(expected), rtol=1e-3, atol=1e-4
                )

    @pytest.mark.parametrize("weights", ["full", "lora"])
    def test_what_is_saved_is_the_model_of_one(self, alone, together, weights):
        name = "adapter_model.safetensors" if weights == "lora" else "model.safetensors"
        one, two = (load_file(folder / weights / name) for folder in (alone[0], together[1]))
        assert set(one) == set(two)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-4)

    def test_shards_are_kept_and_taken_up_bit_for_bit(self, together):
        _, folder, both = together
        for found in both:
            assert len(found["undisturbed"]) == 10
            assert found["resumed"] == found["undisturbed"]
        one, two = (load_file(folder / name / "model.safetensors") for name in ("undisturbed", "resumed"))
        assert all(torch.equal(two[key], value) for key, value in one.items())
        names = sorted(path.name for path in (folder / "shards" / "step-00000010").iterdir())
        assert names == [
            "checkpoint.json",
            *(f"state-0000{rank}-of-00002.pt" for rank in (1, 2)),
            *(f"weights-0000{rank}-of-00002.safetensors" for rank in (1, 2)),
        ]

    def test_a_gradient_that_is_not_finite_stops_before_the_step(self, together):
        _, folder, both = together
        for found in both:
            assert found["broken"].startswith("step 1: the gradient is inf although every loss is finite")
        before, after = (load_file(folder / name / "model.safetensors") for name in ("whole", "broken"))
        assert all(torch.equal(after[key], value) for key, value in before.items())

    def test_what_cannot_be_right_is_refused(self, together):
        name, _, both = together
        for found in both:
            refused = found["refused"]
            assert "set model.dtype to float32" in refused["float64"]
            assert "which Adafactor reads" in refused["adafactor"]
            if name.startswith("zero3"):
                assert "cannot share the weights of the policy" in refused["sharing"]
                assert "reference.update_steps" in refused["moving"]
            else:
                assert refused["sharing"] == refused["moving"] == "nothing"

    def test_a_whole_run_leaves_what_one_leaves(self, alone, together):
        one, two = alone[0] / "run", together[1] / "run"
        written, both = ({str(path.relative_to(out)) for path in out.rglob("*")} for out in (one, two))
        assert {name for name in written if "checkpoints/" not in name} == {
            name for name in both if "checkpoints/" not in name
        }
        records = [json.loads((out / "run.json").read_text()) for out in (one, two)]
        assert [record["num_processes"] for record in records] == [1, 2]
        for when in ("before", "after"):
            first, second = (record["evaluation"][when] for record in records)
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
        models = [AutoModelForCausalLM.from_pretrained(out).state_dict() for out in (one, two)]
        for name, value in models[0].items():
            torch.testing.assert_close(models[1][name], value, rtol=1e-3, atol=1e-4)


def settled(config, *, autocast=None, limit=1.0, optimizer="adamw"):
    policy = Scorer(tiny_model("llama"), autocast=autocast)
    training = TrainingConfig(**TRAINING | {"optimizer": optimizer})
    settle(config, policy, build_optimizer(policy.parameters(), training), limit, 2)
    return config


def test_steps_clipping_and_precision_are_those_of_the_run():
    config = {
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": True},
        "gradient_accumulation_steps": 7,
        "gradient_clipping": 3.0,
    }
    assert settled(config, limit=0.5) == {
        "zero_optimization": {"stage": 2},
        "train_batch_size": 2,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.5,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},
        "zero_force_ds_cpu_optimizer": False,
    }
    assert settled({"zero_optimization": {"stage": 3}}, limit=None)["gradient_clipping"] == 0


@pytest.mark.parametrize(
    ("config", "changed", "said"),
    [
        ({"zero_optimization": {"stage": 0}}, {}, "stage 0; this version takes 1, 2 and 3"),
        ({"optimizer": {"type": "Lamb"}}, {}, "holds optimizer; the run's own config"),
        ({"scheduler": {}, "amp": {}}, {}, "holds amp, scheduler;"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, {}, "holds zero_quantized_weights;"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, {}, "offload_param is"),
        ({}, {"autocast": torch.float16}, "bfloat16, not float16"),
        ({}, {"optimizer": "adafactor"}, "shapes, which Adafactor reads"),
    ],
)
def test_a_config_that_would_change_the_run_is_refused(config, changed, said):
    with pytest.raises(ConfigError, match=said):
        settled({"zero_optimization": {"stage": 2}} | config, **changed)


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_where_deepspeed_is_not_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"pip install 'prefopt\[deepspeed\]'"):
        Ranks.started()
