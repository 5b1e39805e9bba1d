from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from .tokenizers import tokenizer


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerBase:
    return tokenizer("adds_bos")


@pytest.fixture(scope="session")
def chat() -> PreTrainedTokenizerBase:
    return tokenizer("without_bos", "chatml")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / ".." / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the real data in ../shared, which is not part of the repository")
    return folder
