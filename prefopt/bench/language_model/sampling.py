"""What a policy writes, at temperature 1 and without any other rule: drawn with the probabilities it is scored by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefopt.bench.language_model.prompts import Prompt
from prefopt.data.row import Completion, Row
from prefopt.evaluation.sampling import end_tokens, left_padded

_AT_ONCE = 256  # completions


def sample(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    num_samples: int,
    max_new_tokens: int,
    seed: int,
) -> list[Row]:
    """Continue each prompt several times.

    The same seed draws the same random numbers whatever the weights, so what two policies write differs only where
    they do. The caller's own random numbers stay as they are.

    Args:
        policy: a causal language model.
        tokenizer: its tokenizer.
        prompts: token ids, each at least one long.
        num_samples: completions of each prompt.
        max_new_tokens: tokens after which a completion is cut; one that ends before has its end token.
        seed: of the draws.

    Returns:
        `num_samples` demonstrations of the first prompt, then of the second, and so on.
    """
    ends = end_tokens(policy, tokenizer)
    fill = min(ends, default=0)
    at_once = max(1, _AT_ONCE // num_samples)
    settings = {
        "max_new_tokens": max_new_tokens,
        "num_return_sequences": num_samples,
        "do_sample": True,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "eos_token_id": sorted(ends) or None,
        "pad_token_id": fill,
        "remove_invalid_values": True,  # a model that diverged writes anything, rather than ending the process on a GPU
    }
    rows: list[tuple[Prompt, tuple[int, ...]]] = []
    own = policy.generation_config
    with torch.random.fork_rng([policy.device] if policy.device.type == "cuda" else []), torch.no_grad():
        try:
            # A model's own settings may hold penalties and cuts.
            policy.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
            for start in range(0, len(prompts), at_once):
                torch.manual_seed(seed + start)  # whatever the batches before it took, which may have ended early
                some = prompts[start : start + at_once]
                input_ids, present = (part.to(policy.device) for part in left_padded(some, fill))
                written = policy.generate(input_ids, attention_mask=present, **settings)  # type: ignore[operator]
                new = written[:, input_ids.shape[1] :].view(len(some), num_samples, -1).tolist()
                for prompt, group in zip(some, new, strict=True):
                    rows += [(prompt, _up_to_end(ids, ends)) for ids in group]
        finally:
            policy.generation_config = own
    return [
        Row("demonstrations", "sampled", number, prompt, (Completion(ids, (True,) * len(ids)),))
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
