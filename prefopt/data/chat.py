"""Conversations -> token ids through the tokenizer's chat template: turns, their ends, what is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefopt.data.bad_row import BadRow
from prefopt.data.boundary import common_prefix, split
from prefopt.data.plain_text import end_once, tokenize
from prefopt.data.text import Conversation
from prefopt.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTINEL = "Sentinel"


@dataclass(frozen=True)
class _Rendered:
    text: str
    ids: list[int]


class ChatTemplate:
    """Tokenises conversations; how turns end is learnt from one probe of the template.

    Raises:
        DataError: The tokenizer has no chat template, or the template fails on a plain conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise DataError(
                "the rows are conversations, and the tokenizer has no chat template; "
                "use the model's instruction-tuned version, or save a chat template with its tokenizer"
            )
        self._tokenizer = tokenizer
        stand_ins = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self._start = [token for token in stand_ins if token is not None][:1]
        self._special = _special_ids(tokenizer)
        self._after_answer = self._probe()
        self._after_end = self._learn_end()
        if self._after_end is None and tokenizer.eos_token_id is None:
            raise DataError("neither the chat template nor the tokenizer has a token that ends a turn")
        self._eos: int = tokenizer.eos_token_id

    def split(
        self, prompt: Conversation, completions: Sequence[Conversation], tools: list[Any] | None
    ) -> tuple[list[int], list[list[int]], list[list[bool]], bool]:
        """The ids of a prompt and of its completions.

        Args:
            prompt: At least one message.
            completions: At least one message each, the last from the assistant.
            tools: JSON schemas for the template, or None.

        Returns:
            Prompt ids, the ids of each completion, which of them count, and whether the boundary shifted.

        Raises:
            BadRow: The template fails, or renders earlier turns differently once later ones follow.
        """
        alone = self._open(prompt, tools)
        fulls = [self._closed(prompt + completion, tools) for completion in completions]
        shared, own = split(alone.ids, [full.ids for full in fulls])
        shifted = shared != alone.ids
        if shifted:
            self._check_history(prompt, tools, alone, fulls)
        if not shared and not self._start:
            raise BadRow("no token is left of its prompt, and the tokenizer has none that could stand for it")
        scored = [
            self._scored(prompt, completion, tools, full, len(shared))
            for completion, full in zip(completions, fulls, strict=True)
        ]
        return shared or self._start, own, scored, shifted

    def _scored(
        self,
        prompt: Conversation,
        completion: Conversation,
        tools: list[Any] | None,
        full: _Rendered,
        shared: int,
    ) -> list[bool]:
        flags = [False] * len(full.ids)
        for index, message in enumerate(completion):
            if message["role"] != "assistant":
                continue
            start, end = shared, len(full.ids)
            if index > 0:
                start = self._answer_start(prompt + completion[:index], tools, full)
            if index < len(completion) - 1:
                end = self._answer_end(prompt + completion[: index + 1], tools, full)
            if start >= end:
                raise BadRow("the chat template leaves an answer out")
            flags[start:end] = [True] * (end - start)
        return flags[shared:]

    def _answer_start(self, before: Conversation, tools: list[Any] | None, full: _Rendered) -> int:
        opened = self._open(before, tools)
        start = common_prefix(opened.ids, full.ids)
        if start < len(opened.ids):
            self._check_history(before, tools, opened, [full])
        return start

    def _answer_end(self, through: Conversation, tools: list[Any] | None, full: _Rendered) -> int:
        closed = self._closed(through, tools)
        end = common_prefix(closed.ids, full.ids)
        # where the template has no end token, ours is not in the full text and the token before it may merge
        appended = self._after_end is None
        if not (full.text.startswith(closed.text) if appended else end == len(closed.ids)):
            raise BadRow("the chat template renders an answer differently once another message follows")
        return end

    def _check_history(
        self, messages: Conversation, tools: list[Any] | None, opened: _Rendered, fulls: Sequence[_Rendered]
    ) -> None:
        """Tells shifted tokens and unlike generation prompts, both harmless, from rewritten turns."""
        text = self._render(messages, tools, generation_prompt=False)
        history = text[: common_prefix(text, opened.text)]
        if not all(full.text.startswith(history) for full in fulls):
            raise BadRow("the chat template renders the prompt differently once an answer follows")

    def _open(self, messages: Conversation, tools: list[Any] | None) -> _Rendered:
        """A conversation up to where an answer would begin."""
        text = self._render(messages, tools, generation_prompt=True)
        return _Rendered(text, tokenize(self._tokenizer, text, special=False))

    def _closed(self, messages: Conversation, tools: list[Any] | None) -> _Rendered:
        """A conversation up to and including the token that ends its last turn."""
        text = self._render(messages, tools, generation_prompt=False)
        if self._after_end is None:
            text = text.removesuffix(self._after_answer)
            return _Rendered(text, end_once(tokenize(self._tokenizer, text, special=False), self._eos))
        ids = tokenize(self._tokenizer, text, special=False)
        length = len(ids) - len(self._after_end)
        # any special token will do: some templates end tool calls with another than plain answers
        if ids[length:] != self._after_end or ids[length - 1] not in self._special:
            raise BadRow("the chat template puts no end-of-turn token after an answer")
        return _Rendered(text, end_once(ids[:length], ids[length - 1]))

    def _render(self, messages: Conversation, tools: list[Any] | None, *, generation_prompt: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:  # a template is code of the model's author and may raise anything
            raise BadRow(f"the chat template fails: {error or type(error).__name__}") from error
        return str(text)

    def _probe(self) -> str:
        """What the template writes after an answer."""
        messages = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": _SENTINEL}]
        try:
            _, found, after = self._render(messages, None, generation_prompt=False).rpartition(_SENTINEL)
        except BadRow as bad:
            raise DataError(f"{bad}, on a plain question and answer") from bad
        if not found:
            raise DataError("the chat template leaves out the assistant's answer")
        return after

    def _learn_end(self) -> list[int] | None:
        """What follows the end-of-turn token, the first special one after an answer; None: no such."""
        after = tokenize(self._tokenizer, self._after_answer, special=False)
        ends = (index for index, token in enumerate(after) if token in self._special)
        end = next(ends, None)
        return None if end is None else after[end + 1 :]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    # an end-of-turn token is not always marked special; blanks that a vocabulary adds are never one
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {
        token for token, content in added if content.special or str(content).strip()
    }
