"""Plain text -> token ids: one prompt, its completions, one end-of-sequence token each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefopt.data.bad_row import BadRow
from prefopt.data.boundary import split
from prefopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PlainText:
    """Tokenises plain rows as the tokenizer itself would, with its own special tokens.

    Attributes:
        end: The tokenizer's EOS.
        start: What stands for an empty prompt: BOS, else EOS.

    Raises:
        DataError: The tokenizer has no EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-sequence token, which must end every completion")
        self._tokenizer = tokenizer
        self.end: int = tokenizer.eos_token_id
        self.start: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        probe = tokenize(tokenizer, "a", special=True)
        self._adds_start = probe[0] == self.start
        self._adds_end = probe[-1] == self.end

    def split(self, prompt: str, completions: Sequence[str]) -> tuple[list[int], list[list[int]], bool]:
        """The ids of a prompt and of its completions.

        Args:
            prompt: May be empty.
            completions: What follows the prompt, character for character.

        Returns:
            Prompt ids, the ids of each completion, and whether the boundary shifted: the prompt's last tokens
            merged with a completion's first, so that they went to the completions.

        Raises:
            BadRow: A completion has no token of its own.
        """
        alone = self._ids(prompt) if prompt else [self.start]
        shared, own = split(alone, [self._ids(prompt + completion) for completion in completions])
        if not all(own):
            raise BadRow("a completion adds no token to its prompt")
        shifted = bool(prompt) and shared != alone
        return shared or [self.start], [end_once(ids, self.end) for ids in own], shifted

    def _ids(self, text: str) -> list[int]:
        ids = tokenize(self._tokenizer, text, special=True)
        if self._adds_end:
            ids = ids[:-1]
        # a text rendered elsewhere often begins with the BOS that this tokenizer adds again
        if self._adds_start and ids[:2] == [self.start] * 2:
            ids = ids[1:]
        return ids


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """The ids of one text, never cut and without warnings about its length.

    Args:
        tokenizer: Any.
        text: Any.
        special: Whether the tokenizer adds the special tokens it adds by itself.
    """
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    except Exception as error:  # tokenizers raise what they like on text that is no valid Unicode
        raise BadRow(f"the tokenizer fails on its text: {str(error) or type(error).__name__}") from error
    return list(ids)


def end_once(ids: list[int], end: int) -> list[int]:
    """The ids with one end token at their end, however many stood there.

    >>> end_once([5, 2, 2], end=2)
    [5, 2]
    """
    length = len(ids)
    while length and ids[length - 1] == end:
        length -= 1
    return [*ids[:length], end]
