"""The page of a loss and the index of all pages, in Markdown, made from nothing but the classes.

So a page cannot differ from the code: a test holds every file against what is made now.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from prefopt import docstrings
from prefopt.loss import Loss, Needs

_ROWS = {
    "pairs": "preference pairs: of each prompt a chosen and a rejected completion",
    "labels": "labels: completions that are each desirable or not",
    "rankings": "rankings: of each prompt several completions with scores",
    "demonstrations": "demonstrations: completions to imitate",
}


def page(loss: type[Loss]) -> str:
    """The page of one loss: everything it declares and documents, and how to use it."""
    found = docstrings.sections(loss)
    parts = {
        "Reads": _bullets(_reads(loss.needs)),
        "Formula and gradient": _block("text", found["Formula"]),
        "Hyper-parameters": _hyperparameters(loss),
        "Recipe": _bullets(_prose(words) for words in docstrings.recipe_in_words(loss)),
        "Returns": _prose(found.get("Returns", "")),
        "Raises": _prose(found.get("Raises", "")),
        "Source": _linked(_prose(found.get("Source", ""))),
        "Differs": _prose(re.sub(r"^no\b", "No", found.get("Differs", ""))),
        "Relations": _bullets(f"equals {_relation(words)}" for words in docstrings.relations_in_words(loss)),
        "Expected failures": _bullets(f"`{check}`: {_prose(why)}" for check, why in loss.expected_failures.items()),
        "Example": _block("python", found.get("Example", "") + "\n"),
        "Use": _use(loss),
    }
    told = [f"## {title}\n\n{text}" for title, text in parts.items() if text]
    return "\n\n".join([f"# {loss.name}", _prose(docstrings.summary(loss)), *told]) + "\n"


def index(losses: Iterable[type[Loss]]) -> str:
    """The table of all losses, with links to their pages beside it."""
    rows = []
    for loss in losses:
        url, arxiv = docstrings.source_url(loss), docstrings.arxiv_id(loss)
        source = f"[{arxiv or url.split('/')[2]}]({url})" if url else ""
        told = (f"[`{loss.name}`]({loss.name}.md)", _prose(docstrings.summary(loss)))
        rows.append((*told, docstrings.needs_in_words(loss), source))
    text = "Made by `make docs` from the losses themselves, as is every page. `prefopt losses NAME` shows the same."
    return f"# The losses\n\n{text}\n\n{_table(('loss', 'what it returns', 'reads', 'source'), rows)}\n"


def _reads(needs: Needs) -> list[str]:
    told = {
        "the log-probs of the reference": needs.reference,
        "the scores of the completions": needs.scores,
        "log-probs token by token": needs.tokens,
        "how sharp the policy's next-token distributions are": needs.distribution == "policy",
        "the KL between the next-token distributions of reference and policy, so the reference must be `live`": (
            needs.distribution == "both"
        ),
        "a mismatched completion of every row, one that belongs to another prompt": needs.mismatched,
        "the whole optimiser batch at once: the value of a row depends on the others": needs.coupled,
        "a state that it carries from one optimiser step to the next": needs.state,
    }
    rows = "; or ".join(words for kind, words in _ROWS.items() if kind in set(needs.rows))
    return [rows, *(words for words, needed in told.items() if needed)]


def _hyperparameters(loss: type[Loss]) -> str:
    fields, meanings = docstrings.hyperparameters(loss), docstrings.arguments(loss)
    if not fields:
        return "None."
    rows = []
    for field in fields:
        tune = " to ".join(f"{end:g}" for end in field["tune"] or ())
        shown = (f"`{field['name']}`", f"`{_yaml(field['default'])}`", _prose(field["range"]), tune)
        rows.append((*shown, _prose(meanings.get(field["name"], ""))))
    return _table(("name", "default", "range", "worth searching", "meaning"), rows)


def _use(loss: type[Loss]) -> str:
    defaults = {field["name"]: field["default"] for field in docstrings.hyperparameters(loss)}
    config = _block("yaml", f"loss: {_yaml(loss.name)}")
    if defaults:
        full = _block("yaml", f"loss: {_yaml({'name': loss.name, **defaults})}")
        config += f"\n\nor with its hyper-parameters, here at their defaults:\n\n{full}"
    settings = "".join(f", {name}={_python(value)}" for name, value in defaults.items())
    python = _block("python", "import prefopt", "", f'loss = prefopt.get_loss("{loss.name}"{settings})')
    return f"In a config:\n\n{config}\n\nFrom Python:\n\n{python}"


def _relation(words: str) -> str:
    name = words.split(" ")[0].rstrip(",")
    return f"[`{name}`]({name}.md){_prose(words.removeprefix(name))}"


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9).removesuffix("\n...\n").strip()


def _python(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _linked(text: str) -> str:
    text = re.sub(docstrings.URL, r"<\g<0>>", text)
    return re.sub(docstrings.ARXIV, r"[\g<0>](https://arxiv.org/abs/\1)", text)


def _prose(text: str) -> str:
    """Text as it is meant: outside of code, signs that Markdown takes for its own stand for themselves."""
    spans = re.split(r"(`[^`]*`)", text)
    return "".join(span if span[:1] == "`" else re.sub(r"\*|<(?=[A-Za-z/!?])", r"\\\g<0>", span) for span in spans)


def _block(language: str, *lines: str) -> str:
    text = "\n".join(lines)
    return f"```{language}\n{text}\n```" if text.strip() else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
