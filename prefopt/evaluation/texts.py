"""The text of held-out rows, as it stands in the data: what is sent to servers and shown to judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefopt.data.columns import TextRow, read_row
from prefopt.data.row import Row
from prefopt.data.sources import Source, read_rows, source_name
from prefopt.data.text import Conversation, Text
from prefopt.errors import DataError

Prompt = str | Conversation


@dataclass(frozen=True)
class RowText:
    """A held-out row in words.

    Attributes:
        prompt: text, or a conversation.
        chosen: the data's good answer; None where the row has none (an undesirable label).
        truth: what a right answer says in the end: the row's column `answer`, else `chosen`.
    """

    prompt: Prompt
    chosen: str | None
    truth: str | None


def row_texts(
    sources: Sequence[Source], rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, streaming: bool = False
) -> list[RowText]:
    """The text of each row, read once more from where it came from.

    Args:
        sources: where the rows come from.
        rows: some of their rows.
        tokenizer: puts rows of token ids into words.
        streaming: whether the sources are read as streams.

    Raises:
        DataError: the source no longer holds the rows.
    """
    found: dict[tuple[str, int], RowText] = {}
    for source in sources:
        name = source_name(source)
        wanted = {row.number for row in rows if row.source == name}
        for number, raw in read_rows(source, streaming=streaming):
            if not wanted:
                break
            if number in wanted and not isinstance(raw, str):
                wanted.remove(number)
                answer = raw.get("answer")
                found[name, number] = _in_words(read_row(raw), None if answer is None else str(answer), tokenizer)
    missing = next((row for row in rows if (row.source, row.number) not in found), None)
    if missing is not None:
        raise DataError(f"{missing.name} is gone: the source changed while it was being read; start again")
    return [found[row.source, row.number] for row in rows]


def _in_words(row: TextRow, answer: str | None, tokenizer: PreTrainedTokenizerBase) -> RowText:
    prompt = _words(row.prompt, tokenizer) if isinstance(row.prompt, tuple) else row.prompt
    chosen = None
    if row.kind == "rankings":
        chosen = row.completions[row.scores.index(max(score for score in row.scores if score is not None))]
    elif row.desirable is not False:
        chosen = row.completions[0]
    text = None if chosen is None else _words(chosen, tokenizer).strip()
    return RowText(prompt, text, text if answer is None else answer)


def _words(text: Text, tokenizer: PreTrainedTokenizerBase) -> str:
    if isinstance(text, str):
        return text
    if isinstance(text, tuple):
        return str(tokenizer.decode(list(text), skip_special_tokens=True))
    return "\n\n".join(filter(None, (content_of(message) for message in text)))


def content_of(message: dict[str, Any]) -> str:
    """What a message says; nothing where it only calls a tool."""
    return str(message.get("content") or "")


def written_out(prompt: Prompt) -> str:
    """A prompt as one text; each message of a conversation begins with who says it.

    >>> written_out([{"role": "user", "content": "Hello?"}])
    'user: Hello?'
    """
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{message['role']}: {content_of(message)}" for message in prompt)
