"""The docstring of a loss as data: the fixed sections of DESIGN's order, which pages and listings are made from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from prefopt.loss import Loss, listed

ARXIV = r"arXiv\s+(\d{4}\.\d{4,5})"
URL = r"https://[^\s<>]*[^\s<>.,;:)]"
SECTIONS = ("Args", "Returns", "Raises", "Source", "Differs", "Example")


def summary(cls: type) -> str:
    """The first line: what a loss returns, what a task or a method is."""
    return _text(cls).partition("\n")[0]


def sections(loss: type[Loss]) -> dict[str, str]:
    """Section name -> text, dedented; `Formula` is what stands between the first line and the first section."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", _text(loss), flags=re.MULTILINE)
    formula = parts[0].partition("\n")[2]
    found = {name: inspect.cleandoc(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return {"Formula": formula.strip(), **found}


def arguments(loss: type[Loss]) -> dict[str, str]:
    """Hyper-parameter -> its meaning in one line, from `Args`."""
    entries = re.split(r"^(\w+(?:, \w+)*): ", sections(loss).get("Args", ""), flags=re.MULTILINE)
    return {
        name: " ".join(meaning.split())
        for names, meaning in zip(entries[1::2], entries[2::2], strict=True)
        for name in names.split(", ")
    }


def arxiv_id(loss: type[Loss]) -> str:
    """The arXiv id that the `Source` section names first, or an empty string."""
    match = re.search(ARXIV, sections(loss).get("Source", ""))
    return match[1] if match else ""


def source_url(loss: type[Loss]) -> str:
    """Where the source can be read: on arXiv, else the first URL of the section, else an empty string."""
    if found := arxiv_id(loss):
        return f"https://arxiv.org/abs/{found}"
    match = re.search(URL, sections(loss).get("Source", ""))
    return match[0] if match else ""


def needs_in_words(loss: type[Loss]) -> str:
    """What the loss reads, as in `pairs, reference`."""
    needs = loss.needs
    words = [listed(needs.rows)]
    words += [
        word for word in ("reference", "scores", "tokens", "mismatched", "coupled", "state") if getattr(needs, word)
    ]
    if needs.distribution:
        words.append(f"distribution of {needs.distribution}")
    return ", ".join(words)


def hyperparameters(loss: type[Loss]) -> list[dict[str, Any]]:
    """Name, default, range and tuning range of every hyper-parameter."""
    schema = loss.model_json_schema()["properties"] if loss.model_fields else {}
    return [
        {
            "name": name,
            "default": info.get_default(call_default_factory=True),
            "range": _range_in_symbols(schema[name]),
            "tune": schema[name].get("tune"),
        }
        for name, info in loss.model_fields.items()
    ]


def recipe_in_words(loss: type[Loss]) -> list[str]:
    """What the loss declares for a run to be held against before it starts, a sentence each."""
    found = []
    if loss.learning_rates is not None:
        found.append(
            f"its authors trained whole models with a learning rate of {rates_in_words(loss.learning_rates)}; small "
            "models and adapters take higher ones"
        )
    if loss.on_length:
        found.append(f"to keep length out of the reward it {loss.on_length}")
    return found


def rates_in_words(rates: tuple[float, float]) -> str:
    """A range of learning rates.

    >>> rates_in_words((5e-7, 1e-6)), rates_in_words((2e-5, 2e-5))
    ('5e-7 to 1e-6', '2e-5')
    """
    return " to ".join(dict.fromkeys(rate_in_words(rate) for rate in rates))


def rate_in_words(rate: float) -> str:
    """A learning rate as people write it, to two digits.

    >>> rate_in_words(1e-6), rate_in_words(6.4e-5), rate_in_words(0.02)
    ('1e-6', '6.4e-5', '0.02')
    """
    return re.sub(r"e-0*", "e-", f"{rate:.2g}")


def relations_in_words(loss: type[Loss]) -> list[str]:
    """The identities the loss promises, as in `dpo, where label_smoothing = 0`, the other loss's name first."""
    return [
        relation.to
        + (f" with {_settings(relation.given)}" if relation.given else "")
        + (f", where {_settings(relation.where)}" if relation.where else "")
        + (f", on rankings of {relation.num_completions} completions" if relation.num_completions else "")
        for relation in loss.relations
    ]


def closed_form(loss: type[Loss]) -> bool:
    """Whether the loss brings a gradient derived by hand."""
    return loss.gradient is not Loss.gradient


def as_data(loss: type[Loss]) -> dict[str, Any]:
    """Everything above, for `--json`."""
    needs = loss.needs
    return {
        "name": loss.name,
        "summary": summary(loss),
        "needs": {
            "rows": sorted(needs.rows),
            "reference": needs.reference,
            "scores": needs.scores,
            "tokens": needs.tokens,
            "distribution": needs.distribution,
            "mismatched": needs.mismatched,
            "coupled": needs.coupled,
            "state": needs.state,
        },
        "hyperparameters": hyperparameters(loss),
        "closed_form": closed_form(loss),
        "learning_rates": loss.learning_rates and list(loss.learning_rates),
        "on_length": loss.on_length,
        "arxiv": arxiv_id(loss),
        "relations": relations_in_words(loss),
        "expected_failures": dict(loss.expected_failures),
        "sections": sections(loss),
    }


def _text(cls: type) -> str:
    # Not inspect.getdoc: what the base class says of all losses is not the summary of this one.
    return inspect.cleandoc(cls.__doc__ or "")


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _range_in_symbols(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_range_in_symbols, schema["anyOf"])))
    if schema.get("type") == "null":
        return "null"
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "boolean":
        return "true, false"
    symbols = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    return ", ".join(f"{symbol} {schema[key]:g}" for key, symbol in symbols.items() if key in schema)
