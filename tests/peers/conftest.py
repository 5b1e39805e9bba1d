from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from prefopt.config import as_values
from prefopt.precompute import precompute
from tests.cli.conftest import prefopt as prefopt
from tests.cli.conftest import write_config as write_config
from tests.models import tiny_model
from tests.peers.runs import REGISTRY, Trained, settings, train_once

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(model_folder: Path, tmp_path: Path) -> Callable[..., Trained]:
    """Trains the tiny model for two steps, each time into a folder of its own, with changes to the config."""
    numbers = itertools.count()

    def run(source: Any, **changes: Any) -> Trained:
        defaults = {"model": {"name": str(model_folder)}, "output_dir": str(tmp_path / f"run {next(numbers)}")}
        return train_once(source, defaults, changes)

    return run


@pytest.fixture
def other_model(model_folder: Path, tmp_path: Path) -> Path:
    """A model of other weights with the same tokenizer."""
    words = AutoTokenizer.from_pretrained(model_folder)
    tiny_model("llama", vocab_size=len(words), seed=3).save_pretrained(tmp_path / "other")
    words.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that were loaded."""
    names: list[str] = []
    load = AutoModelForCausalLM.from_pretrained

    def watched(name: str, *arguments: Any, **settings: Any) -> Any:
        names.append(name)
        return load(name, *arguments, **settings)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", staticmethod(watched))
    return names


@pytest.fixture
def forwards() -> Iterator[list[int]]:
    """The tokens of every forward pass that any language model made."""
    tokens: list[int] = []

    def count(module: nn.Module, _: Any, inputs: dict[str, Any], __: Any) -> None:
        if isinstance(module, PreTrainedModel) and module.base_model is module:
            tokens.append(inputs["input_ids"].numel())

    handle = register_module_forward_hook(count, with_kwargs=True)
    yield tokens
    handle.remove()


def python_path() -> str:
    """Where a process of a test finds the library, its plugins and the tests."""
    return os.pathsep.join(map(str, (ROOT, ROOT / "plugins")))


@pytest.fixture(scope="session")
def many_pairs() -> list[dict[str, str]]:
    """More than one chunk for each of two ranks, and no multiple of anything."""
    words = "red green blue white black yellow brown grey pink".split()
    return [
        {"prompt": f"{number}: about {word}.", "chosen": f" I like {word} a lot", "rejected": f" {word} is bad"}
        for number, word in zip(range(23), itertools.cycle(words), strict=False)
    ]


@pytest.fixture(scope="session")
def two_ranks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two ranks")


@pytest.fixture(scope="session")
def two_ranks_configs(
    two_ranks_folder: Path, model_folder: Path, many_pairs: list[dict[str, str]]
) -> dict[str, dict[str, Any]]:
    """Configs of what runs in two processes: `own` and `there` score 23 rows, `train` holds 7 of them out."""
    rows = two_ranks_folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in many_pairs))
    common = {"model": {"name": str(model_folder)}, "data": {"train": str(rows)}}
    scoring = {"training": {"tokens_per_microbatch": 32}, "output_dir": "none"}
    return {
        **{
            name: {**common, **scoring, "reference": {"mode": "cached", "cache_dir": str(two_ranks_folder / name)}}
            for name in ("own", "there")
        },
        "train": {
            **common,
            "data": {"train": str(rows), "evaluation": 7},
            "loss": "kto",
            "training": {"batch_size": 5, "max_steps": 6, "tokens_per_microbatch": 64},
            "evaluation": {"every_steps": 2},
            "output_dir": str(two_ranks_folder / "trained"),
        },
    }


@pytest.fixture(scope="session")
def two_ranks(two_ranks_folder: Path, two_ranks_configs: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of two gloo processes found."""
    for name, changes in two_ranks_configs.items():
        (two_ranks_folder / f"{name}.yaml").write_text(yaml.safe_dump(as_values(settings(changes))))
    precompute(settings(two_ranks_configs["there"]), REGISTRY.loss("dpo"))
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), "CUDA_VISIBLE_DEVICES": ""}
    script = [str(Path(__file__).with_name("two_ranks.py")), str(two_ranks_folder)]
    done = subprocess.run([*launcher, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # whole: the rank that failed first may stand anywhere in it
    return [json.loads((two_ranks_folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
