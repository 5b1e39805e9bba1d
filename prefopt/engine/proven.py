"""A loaded model as the engine may use it on given rows."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prefopt.data.row import Row
from prefopt.data.trees import grow_rows, largest_sequence
from prefopt.engine.loading import check_fit
from prefopt.engine.logps import Scorer
from prefopt.engine.parity import prove


def proven(
    model: PreTrainedModel, name: str, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]
) -> tuple[Scorer, list[str]]:
    """Find out on the longest sequence, the fullest row and the shortest one what the model takes.

    Args:
        model: the policy or the reference; it is moved to where the run computes, as another device has other kernels.
        name: the model's name, for messages.
        tokenizer: the policy's.
        rows: those of the run.

    Returns:
        The model as it may be used on these rows, and a sentence for each thing it does not take.

    Raises:
        ModelError: the model does not fit the tokenizer or the rows, or cannot be run on them.
    """
    needed, longest = largest_sequence(rows)
    check_fit(model, tokenizer, name, needed + 1)
    model.to(PartialState().device)
    by_size = sorted(rows, key=lambda row: len(row.prompt) + sum(len(own.ids) for own in row.completions))
    telling = {id(row): row for row in (longest, by_size[-1], by_size[0])}
    return prove(model, grow_rows(list(telling.values())))
