"""The prompts of a task: by name, or from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefopt.data.plain_text import tokenize
from prefopt.data.sources import read_rows
from prefopt.errors import DataError

Prompt = tuple[int, ...]

_TEXT_TOKENS = (2, 8)  # of a text that becomes a prompt: as many as the paper takes of a film review


def draw_prompts(
    generator: np.random.Generator,
    source: str,
    sets: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    count: int,
) -> list[Prompt]:
    """Different prompts, in random order.

    Args:
        generator: of the choice.
        source: a name in `sets`, or anything `prefopt.data.sources.read_rows` reads. A row has a column `prompt`, taken
            whole, or `text`, of which 2 to 8 tokens begin a completion.
        sets: name -> prompts.
        tokenizer: the model's.
        count: how many.

    Returns:
        Token ids of each, with what the tokenizer puts before a text, and not what it puts behind.

    Raises:
        DataError: the source cannot be read, a row has no prompt, or there are fewer different ones.

    Source:
        Rafailov et al.: Direct Preference Optimization, 2023, arXiv 2305.18290, appendix C.1 (the lengths).
    """
    found = [(text, None) for text in sets[source]] if source in sets else _read(generator, source, sets)
    chosen: dict[Prompt, None] = {}  # a set that keeps the order
    for index in generator.permutation(len(found)):
        chosen[_ids(tokenizer, *found[index])] = None
        if len(chosen) == count:
            return list(chosen)
    raise DataError(f"prompts {source!r} holds {len(chosen)} different prompts, but training and test need {count}")


def _read(
    generator: np.random.Generator, source: str, sets: Mapping[str, Sequence[str]]
) -> list[tuple[str, int | None]]:
    """The text of every row, and how many tokens of it to take; None: all."""
    try:
        rows = list(read_rows(source))
    except DataError as error:
        known = f" ({', '.join(sorted(sets))})" if sets else ""
        raise DataError(f"prompts {source!r} is no set of prompts{known} and no source of rows: {error}") from None
    low, high = _TEXT_TOKENS
    lengths = generator.integers(low, high, size=len(rows), endpoint=True)
    found: list[tuple[str, int | None]] = []
    for (number, row), length in zip(rows, lengths.tolist(), strict=True):
        columns = row if isinstance(row, Mapping) else {}
        if isinstance(columns.get("prompt"), str):
            found.append((columns["prompt"], None))
        elif isinstance(columns.get("text"), str):
            found.append((columns["text"], length))
        else:
            raise DataError(f"{source} row {number}: it needs a column 'prompt' or 'text' that holds text")
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, length: int | None) -> Prompt:
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = tokenize(tokenizer, text, special=True)
    own = tokenize(tokenizer, text, special=False)
    if ids and ids[-1] == end and own[-1:] != [end]:
        ids.pop()
    num_before = len(ids) - len(own)
    ids = ids if length is None else ids[: num_before + length]
    return tuple(ids) or (end if start is None else start,)
