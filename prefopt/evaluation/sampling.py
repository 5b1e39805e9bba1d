"""What a policy writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.row import Completion, Row

_GREEDY_AT_ONCE = 64  # completions


@torch.no_grad()
def complete(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
) -> list[str]:
    """The greedy completion of each prompt, as text without special tokens.

    Args:
        policy: a causal language model.
        tokenizer: its tokenizer.
        prompts: token ids, each at least one long.
        max_new_tokens: length limit of each completion.
    """
    ends = end_tokens(policy, tokenizer)
    fill = 0 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    was_training = policy.training
    policy.train(False)
    found: list[str] = []
    for start in range(0, len(prompts), _GREEDY_AT_ONCE):
        input_ids, present = left_padded(prompts[start : start + _GREEDY_AT_ONCE], fill)
        written = policy.generate(  # type: ignore[operator]
            input_ids=input_ids.to(policy.device),
            attention_mask=present.to(policy.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(ends) or None,
            pad_token_id=fill,
            # A model's own generation settings may hold sampling values, which greedy search would warn about.
            temperature=None,
            top_p=None,
            top_k=None,
        )
        found += map(str, tokenizer.batch_decode(written[:, input_ids.shape[1] :], skip_special_tokens=True))
    policy.train(was_training)
    return found


def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    num_samples: int,
    max_new_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    at_once: int = 256,
) -> list[Row]:
    """Continue each prompt several times; unless told otherwise, with the probabilities the policy is scored by.

    The same seed draws the same random numbers whatever the weights, so what two policies write differs only where
    they do. The caller's own random numbers stay as they are.

    Args:
        policy: a causal language model.
        tokenizer: its tokenizer.
        prompts: token ids, each at least one long.
        num_samples: completions of each prompt.
        max_new_tokens: tokens after which a completion is cut; one that ends before has its end token.
        seed: of the draws.
        temperature: >= 0; logits are divided by it, and 0 takes the likeliest token.
        top_p: in (0, 1]; tokens are drawn from the likeliest ones that hold this share of the probability.
        at_once: completions that are written side by side. What is drawn depends on it.

    Returns:
        `num_samples` demonstrations of the first prompt, then of the second, and so on.
    """
    if not temperature and num_samples > 1:
        raise ValueError(f"temperature 0 writes one continuation of a prompt, not {num_samples}")
    ends = end_tokens(policy, tokenizer)
    fill = min(ends, default=0)
    prompts_at_once = max(1, at_once // num_samples)
    settings = {
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_samples,
        **({"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p} if temperature else {}),
        "eos_token_id": sorted(ends) or None,
        "pad_token_id": fill,
        "remove_invalid_values": True,  # a model that diverged writes anything, rather than ending the process on a GPU
    }
    rows: list[tuple[Sequence[int], tuple[int, ...]]] = []
    own = policy.generation_config
    with torch.random.fork_rng([policy.device] if policy.device.type == "cuda" else []), torch.no_grad():
        try:
            # A model's own settings may hold penalties and cuts.
            policy.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
            for start in range(0, len(prompts), prompts_at_once):
                torch.manual_seed(seed + start)  # whatever the batches before it took, which may have ended early
                some = prompts[start : start + prompts_at_once]
                input_ids, present = (part.to(policy.device) for part in left_padded(some, fill))
                written = policy.generate(input_ids, attention_mask=present, **settings)  # type: ignore[operator]
                new = written[:, input_ids.shape[1] :].view(len(some), num_samples, -1).tolist()
                for prompt, group in zip(some, new, strict=True):
                    rows += [(prompt, _up_to_end(ids, ends)) for ids in group]
        finally:
            policy.generation_config = own
    return [
        Row("demonstrations", "sampled", number, tuple(prompt), (Completion(ids, (True,) * len(ids)),))
        for number, (prompt, ids) in enumerate(rows, 1)
    ]


def texts(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[str]:
    """The text of each row's prompt with its one completion, without special tokens."""
    ids = [[*row.prompt, *row.completions[0].ids] for row in rows]
    return [str(text) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _up_to_end(ids: Sequence[int], ends: set[int]) -> tuple[int, ...]:
    """The ids up to and including the first end token; what stands after it is padding."""
    length = next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))
    return tuple(ids[:length])


def end_tokens(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a completion."""
    # A chat model ends its turns with a token of its own, which its generation settings name.
    named = policy.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}


def left_padded(prompts: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Token ids [P, T], filled up on the left so that a completion follows every prompt; and [P, T] which are real.

    Args:
        prompts: token ids, each at least one long.
        fill: what stands where nothing is.
    """
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), fill)
    present = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        present[row, width - len(prompt) :] = 1
    return input_ids, present
