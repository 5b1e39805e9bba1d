from __future__ import annotations

import pytest
import torch

from prefopt.evaluation.sampling import complete, sample
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


def test_samples_come_with_the_models_own_probabilities_whatever_its_settings():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words))
    prompt, count = (5, 6, 7), 4000
    with torch.no_grad():
        truth = model(torch.tensor([prompt])).logits[0, -1].softmax(0)
    model.generation_config.suppress_tokens = [int(truth.argmax())]
    rows = sample(model, words, [prompt], num_samples=count, max_new_tokens=1, seed=0)
    drawn = torch.bincount(torch.tensor([row.completions[0].ids[0] for row in rows]), minlength=len(words)) / count
    assert ((drawn - truth).abs() < 5 * (truth * (1 - truth) / count).sqrt() + 1e-3).all()
    assert model.generation_config.suppress_tokens == [int(truth.argmax())]


def test_samples_do_not_depend_on_the_lengths_of_neighbours():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words), seed=3)
    with torch.no_grad():
        model.lm_head.weight *= 100  # so sure of each token that every draw is the same
    prompts = [(5, 6, 7, 8, 9, 10, 11), (9, 7), (40,)]
    rows = sample(model, words, prompts, num_samples=2, max_new_tokens=4, seed=0)
    for index, prompt in enumerate(prompts):
        ids = list(prompt)
        for _ in range(4):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert [row.prompt for row in rows[2 * index : 2 * index + 2]] == [prompt] * 2
        assert [list(row.completions[0].ids) for row in rows[2 * index : 2 * index + 2]] == [ids[-4:]] * 2


def test_samples_are_the_seeds_and_leave_the_callers_random_numbers_alone():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words))
    drawn = {"num_samples": 3, "max_new_tokens": 4}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (sample(model, words, [(4, 5)], seed=seed, **drawn) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert first == again
    assert first != other


def test_a_completion_ends_with_its_first_end_token():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words))
    rows = sample(model, words, [(4, 5)], num_samples=600, max_new_tokens=12, seed=0)
    ended = [row.completions[0].ids for row in rows if words.eos_token_id in row.completions[0].ids]
    assert ended
    assert all(ids.index(words.eos_token_id) == len(ids) - 1 for ids in ended)


def test_samples_follow_temperature_and_top_p():
    """The share of each token, against the probabilities worked out from the model's own logits."""
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words))
    prompt, count, temperature, top_p = (5, 6, 7), 4000, 0.5, 0.6
    with torch.no_grad():
        truth = (model(torch.tensor([prompt])).logits[0, -1] / temperature).softmax(0)
    ordered, order = truth.sort(descending=True)
    kept = order[ordered.cumsum(0) - ordered < top_p]
    expected = torch.zeros_like(truth).index_copy(0, kept, truth[kept] / truth[kept].sum())
    rows = sample(model, words, [prompt], num_samples=count, max_new_tokens=1, seed=0, temperature=0.5, top_p=0.6)
    drawn = torch.bincount(torch.tensor([row.completions[0].ids[0] for row in rows]), minlength=len(words)) / count
    assert 1 < len(kept) < len(words)
    assert ((drawn - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()


def test_temperature_0_is_greedy():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words), seed=3)
    prompts = [(5, 6, 7, 8), (9, 7)]
    rows = sample(model, words, prompts, num_samples=1, max_new_tokens=5, seed=0, temperature=0, at_once=1)
    for row, prompt in zip(rows, prompts, strict=True):
        assert list(row.completions[0].ids) == greedy(model, prompt, 5)[: len(row.completions[0].ids)]
    with pytest.raises(ValueError, match="writes one continuation"):
        sample(model, words, prompts, num_samples=2, max_new_tokens=5, seed=0, temperature=0)


def test_more_completions_than_are_written_at_once_keep_their_order():
    words = tokenizer("without_bos")
    model = tiny_model("llama", vocab_size=len(words), seed=3)
    prompts = [(5 + number % 40, 7) for number in range(70)]
    alone = [complete(model, words, [prompt], max_new_tokens=2) for prompt in prompts[:40]]
    found = complete(model, words, prompts, max_new_tokens=2)
    assert len(set(found)) > 20
    assert found == [text for (text,) in (*alone, *alone[:30])]
