"""The prompt of a pair that does not name one: what chosen and rejected have in common at their beginning."""

from __future__ import annotations

from prefopt.data.bad_row import BadRow
from prefopt.data.boundary import common_prefix
from prefopt.data.text import Conversation


def shared_messages(
    chosen: Conversation, rejected: Conversation
) -> tuple[Conversation, tuple[Conversation, Conversation]]:
    """Takes the common leading messages as the prompt; a message of each stays its completion.

    Args:
        chosen: A whole conversation.
        rejected: Another one.

    Raises:
        BadRow: The first messages differ.
    """
    shared = min(common_prefix(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    if shared < 1:
        raise BadRow("has no prompt, and chosen and rejected do not begin with the same message")
    return chosen[:shared], (chosen[shared:], rejected[shared:])


def shared_text(chosen: str, rejected: str) -> tuple[str, tuple[str, str]]:
    """Takes the common prefix as the prompt, cut back to the end of a word so that no word is split.

    Args:
        chosen: Prompt and completion in one.
        rejected: The same prompt and another completion.

    >>> shared_text("Q: why? A: blue light", "Q: why? A: because")
    ('Q: why? A:', (' blue light', ' because'))
    """
    end = common_prefix(chosen, rejected)
    while end and not _parts(chosen, rejected, end):
        end -= 1
    return chosen[:end], (chosen[end:], rejected[end:])


def _parts(chosen: str, rejected: str, end: int) -> bool:
    """Whether a word ends there, a blank follows in both texts, and more than blanks."""
    return not chosen[end - 1].isspace() and all(
        text[end : end + 1].isspace() and text[end:].strip() for text in (chosen, rejected)
    )
