from __future__ import annotations

import torch

from prefopt.evaluation.sampling import complete
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model


def greedy(model, prompt, num_tokens):
    """One token at a time, from the model's own forward."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(num_tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_each_completion_is_greedy_whatever_its_neighbours():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words), seed=3)
    prompts = [words(text)["input_ids"] for text in ("hello", "once upon a time there was a story", "the sky is")]
    truth = [words.decode(greedy(model, prompt, 6), skip_special_tokens=True) for prompt in prompts]
    assert len(set(truth)) == 3
    assert complete(model, words, prompts, max_new_tokens=6) == truth
    assert model.training
