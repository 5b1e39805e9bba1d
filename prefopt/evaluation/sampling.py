"""What a policy writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
    end = tokenizer.eos_token_id
    # A chat model ends its turns with a token of its own, which its generation settings name.
    ends = {end, *_as_list(policy.generation_config.eos_token_id)} - {None}
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), end if end is not None else 0)
    present = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
        present[row, width - len(prompt) :] = 1
    was_training = policy.training
    policy.train(False)
    written = policy.generate(  # type: ignore[operator]
        input_ids=input_ids.to(policy.device),
        attention_mask=present.to(policy.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(ends) or None,
        pad_token_id=end if end is not None else 0,
        # A model's own generation settings may hold sampling values, which greedy search would warn about.
        temperature=None,
        top_p=None,
        top_k=None,
    )
    policy.train(was_training)
    return [str(text) for text in tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)]


def _as_list(ids: int | list[int] | None) -> list[int | None]:
    return [*ids] if isinstance(ids, list) else [ids]
