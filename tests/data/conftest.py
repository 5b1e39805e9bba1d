from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from .tokenizers import tokenizer


@pytest.fixture(scope="session")
def plain() -> PreTrainedTokenizerBase:
    return tokenizer("adds_bos")


@pytest.fixture(scope="session")
def chat() -> PreTrainedTokenizerBase:
    return tokenizer("without_bos", "chatml")
