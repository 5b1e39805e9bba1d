from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState

from tests.data.tokenizers import tokenizer
from tests.models import tiny_model

hypothesis.settings.register_profile("prefopt", deadline=None, derandomize=True)
hypothesis.settings.load_profile("prefopt")


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the store of the user who runs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def own_accelerator() -> Iterator[None]:
    """For tests of TRL: what it tells accelerate (bfloat16, say) would hold for every later test of the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the real data in ../shared, which is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a ChatML tokenizer, in Hugging Face format."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    words = tokenizer("without_bos", "chatml")
    tiny_model("llama", vocab_size=len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: Sequence[Mapping[str, Any]], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def pair_rows() -> list[dict[str, Any]]:
    colours = ["red", "green", "blue", "white", "black", "yellow", "brown", "grey", "pink"]
    return [
        {"prompt": f"Tell me about {colour}.", "chosen": f" I like {colour} a lot", "rejected": f" {colour} is bad"}
        for colour in colours
    ]
