"""The blocks of docs/trl.md run, and the losses it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prefopt
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "trl.md").read_text(encoding="utf-8")


def block(name):
    (code,) = re.findall(rf"<!-- tested: {name} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    return code


@pytest.mark.usefixtures("own_accelerator")
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing:FutureWarning")
def test_the_trainer_trains(tmp_path, monkeypatch, pair_rows):
    pytest.importorskip("trl", reason="needs trl (extra `compare`)")
    from datasets import Dataset

    monkeypatch.chdir(tmp_path)
    words = tokenizer("without_bos")
    names = {
        "model": tiny_model("llama", vocab_size=len(words)),
        "pairs": Dataset.from_list(pair_rows),
        "tokenizer": words,
    }
    exec(block("trainer").replace("num_train_epochs=1", "num_train_epochs=1, use_cpu=True"), names)
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].loss == prefopt.get_loss("simpo")


def test_the_losses_are_built():
    names = {}
    exec(block("losses"), names)
    assert names["tuned"].gamma == 1.0
    assert names["mixed"].name == "dpo + 0.2 sft"


def test_every_loss_in_the_table_of_names_exists():
    (table,) = re.findall(r"<!-- tested: names -->\n(.*?)\n\n", TEXT, re.DOTALL)
    named = {"dpo", "rso_hinge", "aot_paired", "robust"} & set(re.findall(r"`(\w+)`", table))
    assert len(named) == 4
    declared = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for row in table.splitlines()[2:]:
        trls, ours = (re.findall(r"`(\w+)`", cell) for cell in row.strip("| ").split(" | "))
        for name in trls if "the same name" in row else ours[:1]:
            assert f'\n{name} = "prefopt_losses.{name}"' in declared, name
