"""A loaded model as the engine may use it on given rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.row import Row
from prefopt.data.trees import grow_rows, largest_sequence
from prefopt.engine.loading import check_fit
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove
from prefopt.engine.quantization import is_quantized


def proven(
    model: PreTrainedModel,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    autocast: str | None = None,
) -> tuple[Scorer, list[str]]:
    """Find out on the longest sequence, the fullest row and the shortest one what the model takes.

    Args:
        model: the policy or the reference; it is moved to where the run computes, as another device has other kernels.
        name: the model's name, for messages.
        tokenizer: the policy's.
        rows: those of the run.
        autocast: as the model's config has it.

    Returns:
        The model as it may be used on these rows, and a sentence for each thing it does not take.

    Raises:
        ModelError: the model does not fit the tokenizer or the rows, or cannot be run on them.
    """
    needed, longest = largest_sequence(rows)
    check_fit(model, tokenizer, name, needed + 1)
    if not is_quantized(model):  # which was loaded where it computes, and cannot be moved
        model.to(PartialState().device)
    fullest, shortest = max(rows, key=_size), min(rows, key=_size)
    telling = {id(row): row for row in (longest, fullest, shortest)}
    products = None if autocast is None else getattr(torch, autocast)
    return prove(model, grow_rows(list(telling.values())), autocast=products)


def _size(row: Row) -> int:
    return len(row.prompt) + sum(len(own.ids) for own in row.completions)
