"""The docstring of a loss as data: the fixed sections of DESIGN's order, which pages and listings are made from."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from prefopt.loss import Loss, listed

SECTIONS = ("Args", "Returns", "Raises", "Source", "Differs", "Example")


def summary(loss: type[Loss]) -> str:
    """The first line: what the loss returns."""
    return (inspect.getdoc(loss) or "").partition("\n")[0]


def sections(loss: type[Loss]) -> dict[str, str]:
    """Section name -> text, dedented; `Formula` is what stands between the first line and the first section."""
    text = inspect.getdoc(loss) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):$", text, flags=re.MULTILINE)
    formula = parts[0].partition("\n")[2]
    found = {name: inspect.cleandoc(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    return {"Formula": formula.strip(), **found}


def arxiv_id(loss: type[Loss]) -> str:
    """The arXiv id that the `Source` section names, or an empty string."""
    match = re.search(r"arXiv\s+(\d{4}\.\d{4,5})", sections(loss).get("Source", ""))
    return match[1] if match else ""


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
            "default": info.default,
            "range": _range_in_symbols(schema[name]),
            "tune": schema[name].get("tune"),
        }
        for name, info in loss.model_fields.items()
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
        "arxiv": arxiv_id(loss),
        "sections": sections(loss),
    }


def _range_in_symbols(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if schema.get("type") == "boolean":
        return "true, false"
    symbols = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    return ", ".join(f"{symbol} {schema[key]:g}" for key, symbol in symbols.items() if key in schema)
