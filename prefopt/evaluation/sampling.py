"""What a policy writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    input_ids, present = left_padded(prompts, fill)
    was_training = policy.training
    policy.train(False)
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
    policy.train(was_training)
    return [str(text) for text in tokenizer.batch_decode(written[:, input_ids.shape[1] :], skip_special_tokens=True)]


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
