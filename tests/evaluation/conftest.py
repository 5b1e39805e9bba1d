from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from tests.data.tokenizers import tokenizer


@pytest.fixture
def classifier(tmp_path):
    def save(*labels):
        words = copy.deepcopy(tokenizer("without_bos"))  # which other tests share
        words.pad_token = "<unk>"
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
        )
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "judge")
        words.save_pretrained(tmp_path / "judge")
        return str(tmp_path / "judge")

    return save
