"""What a served model is asked when it judges, and how its reply is read."""

from __future__ import annotations

import re
from typing import Literal

from prefopt.evaluation.texts import Prompt, written_out

_VERDICT = """

Reply in two lines. The first compares the two in one sentence and says why you prefer one of them. The second holds \
your verdict and nothing else, in one of these forms:
Preferred: A
Preferred: B
Preferred: tie"""

QUESTIONS = {
    "summarisation": """\
Someone wrote a post, and two people summarised it. Which summary is better: which one tells what matters most in the \
post, without details that do not matter or are not true?

Post:
{prompt}

Summary A:
{first}

Summary B:
{second}""",
    "summarisation_concise": """\
Someone wrote a post, and two people summarised it. Which summary is better: which one tells what matters most in the \
post, without details that do not matter or are not true, in no more words than it needs? A summary that is longer \
than need be is worse for it.

Post:
{prompt}

Summary A:
{first}

Summary B:
{second}""",
    "dialogue": """\
Someone talked with an assistant, and two answers to the last message were written. Which answer helps the person more?

Conversation:
{prompt}

Answer A:
{first}

Answer B:
{second}""",
}
"""What is asked, by the config's name for it.

Source:
    After the idea, not the words, of Rafailov et al.: Direct Preference Optimization, 2023, arXiv 2305.18290, appendix
    C.2: two for summaries, as judges like long ones unless told otherwise, and one for dialogue.
"""

_READ = re.compile(r"^\W*preferred\W+(a|b|tie)\W*$", re.IGNORECASE | re.MULTILINE)


def ask(question: str, prompt: Prompt, first: str, second: str) -> str:
    """The whole question.

    Args:
        question: a name in `QUESTIONS`.
        prompt: what was to be answered.
        first, second: the answers, shown as A and B.
    """
    return QUESTIONS[question].format(prompt=written_out(prompt), first=first, second=second) + _VERDICT


def read(reply: str) -> Literal["A", "B", "tie"] | None:
    r"""The verdict: the last line that holds one and nothing else; None where there is none.

    >>> read("A is short, but B is wrong.\nPreferred: A"), read("**Preferred:** tie"), read("Preferred: A or B")
    ('A', 'tie', None)
    """
    found = _READ.findall(reply)
    if not found:
        return None
    verdict = found[-1].upper()
    return "A" if verdict == "A" else "B" if verdict == "B" else "tie"
