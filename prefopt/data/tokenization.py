"""A checked row of text -> token ids, by the sort of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

from prefopt.data.bad_row import BadRow
from prefopt.data.chat import ChatTemplate
from prefopt.data.columns import TextRow
from prefopt.data.plain_text import PlainText
from prefopt.data.row import Completion
from prefopt.data.text import Conversation, Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenisedRow:
    """One row's token ids, before any cut.

    Attributes:
        prompt: At least one token.
        completions: In the row's order; prompt and completion joined are the full render's ids.
        shifted: Whether the prompt rendered alone has other last tokens than within the whole.
    """

    prompt: Ids
    completions: tuple[Completion, ...]
    shifted: bool


class RowTokenizer:
    """Turns the three sorts of rows (plain text, conversations, token ids) into ids.

    Args:
        tokenizer: Any tokenizer of transformers, fast or slow.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._size = len(tokenizer)

    # built when first needed: rows of ids need no EOS, plain rows no template
    @cached_property
    def _plain(self) -> PlainText:
        return PlainText(self._tokenizer)

    @cached_property
    def _chat(self) -> ChatTemplate:
        return ChatTemplate(self._tokenizer)

    def __call__(self, row: TextRow) -> TokenisedRow:
        """Tokenises a row.

        Args:
            row: Its prompt and completions are of one sort.

        Raises:
            BadRow: A completion has no token to score, the template fails, or an id is not in the vocabulary.
            DataError: The tokenizer lacks what this sort of rows needs (EOS or a chat template).
        """
        scored: Sequence[Sequence[bool]] | None = None
        if isinstance(row.prompt, str):
            texts = cast("tuple[str, ...]", row.completions)
            prompt, ids, shifted = self._plain.split(row.prompt, texts)
        elif isinstance(row.prompt, list):
            turns = cast("tuple[Conversation, ...]", row.completions)
            prompt, ids, scored, shifted = self._chat.split(row.prompt, turns, row.tools)
        else:
            given = cast("tuple[Ids, ...]", row.completions)
            prompt, ids, shifted = list(row.prompt) or self._start(), [list(own) for own in given], False
            self._check_vocabulary(prompt, *ids)
        completions = tuple(
            Completion(tuple(tokens), tuple(flags), score)
            for tokens, flags, score in zip(
                ids, scored or [[True] * len(tokens) for tokens in ids], row.scores, strict=True
            )
        )
        return TokenisedRow(tuple(prompt), completions, shifted)

    def _start(self) -> list[int]:
        for token in (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id):
            if token is not None:
                return [token]
        raise BadRow("its prompt is empty, and the tokenizer has neither BOS nor EOS to stand for it")

    def _check_vocabulary(self, *sequences: list[int]) -> None:
        for token in (token for sequence in sequences for token in sequence):
            if not 0 <= token < self._size:
                raise BadRow(f"token id {token} is not in the tokenizer's vocabulary of {self._size}")
