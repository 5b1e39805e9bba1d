from __future__ import annotations

from prefopt.evaluation.sampling import complete
from tests.data.tokenizers import tokenizer
from tests.models import tiny_model


def test_completions_do_not_depend_on_their_neighbours():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words))
    prompts = [words("hello")["input_ids"], words("once upon a time there was")["input_ids"]]
    together = complete(model, words, prompts, max_new_tokens=5)
    assert together == [complete(model, words, [prompt], max_new_tokens=5)[0] for prompt in prompts]
    assert model.training
