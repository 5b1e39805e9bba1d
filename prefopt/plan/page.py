"""A forecast for people, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefopt.plan.forecast import Forecast

_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser state",
    "reference": "reference model",
    "layers": "activations of the layers",
    "attention": "what attention keeps",
    "head": "head, in chunks",
    "backward": "backward pass, for a moment",
    "update": "optimiser step, for a moment",
    "exchange": "exchange between processes",
    "process": "Python, libraries, rows",
    "holes": "freed, kept by the allocator",
}
_WAYS = {"live": "live", "stored": "stored", "none": "no reference"}


def as_data(found: Forecast, flops_per_second: float | None = None) -> dict[str, Any]:
    """Everything in the types of JSON; bytes, counts, seconds."""
    work, repeats = found.work, found.work.repeats
    epoch = sum(found.flops.values())
    data: dict[str, Any] = {
        "device": found.device,
        "parameters": found.parameters,
        "trainable_parameters": found.trainable,
        "memory_bytes": {way: {**parts, "peak": sum(parts.values())} for way, parts in found.memory.items()},
        "peak_bytes_with_checkpointing_switched": dict(found.checkpointed),
        "tokens": {
            "prompt": work.prompt_tokens,
            "completion": work.completion_tokens,
            "computed": work.tokens,
            "plain_rows": work.plain_tokens,
            "scored": work.scored,
            "per_step": round(work.tokens / work.steps),
        },
        "num_steps": work.num_steps,
        "microbatches_per_step": work.microbatches / work.steps,
        "flops": {
            **{f"{part}_per_step": round(count / work.steps) for part, count in found.flops.items()},
            **dict.fromkeys(found.memory, 0),
        },
    }
    reference = found.flops.get("reference", 0)
    for way in found.memory:
        data["flops"][way] = round(
            (epoch - reference) * repeats + (reference * repeats if way == "live" else reference)
        )
    if flops_per_second:
        data["seconds"] = {way: round(data["flops"][way] / flops_per_second) for way in found.memory}
    return data


def lines(found: Forecast, flops_per_second: float | None = None) -> Iterator[str]:
    """The same for a terminal."""
    data, ways = as_data(found, flops_per_second), list(found.memory)
    tokens = data["tokens"]
    share = found.trainable / found.parameters
    yield f"{found.parameters:,} parameters, {found.trainable:,} trained ({share:.3%})"
    yield (
        f"{found.work.rows:,} rows an epoch: {tokens['prompt']:,} prompt and {tokens['completion']:,} completion tokens"
    )
    saved = 1 - tokens["computed"] / tokens["plain_rows"]
    yield f"computed {tokens['computed']:,} an epoch, {tokens['per_step']:,} a step; each prompt once saves {saved:.0%}"
    yield f"{data['num_steps']:,} steps of {data['microbatches_per_step']:.1f} micro-batches"
    yield ""
    largest = max(data["memory_bytes"][way]["peak"] for way in ways)
    unit, name, digits = (1e9, "GB", 2) if largest >= 1e10 else (1e6, "MB", 0)
    yield _row(f"memory of a process on {found.device}, {name}", [_WAYS[way] for way in ways])
    for part, words in _PARTS.items():
        sizes = [found.memory[way].get(part, 0) for way in ways]
        if any(sizes):
            yield _row(f"  {words}", [f"{size / unit:,.{digits}f}" for size in sizes])
    yield _row("peak", [f"{data['memory_bytes'][way]['peak'] / unit:,.{digits}f}" for way in ways])
    yield _row("  checkpointing switched", [f"{found.checkpointed[way] / unit:,.{digits}f}" for way in ways])
    yield ""
    yield _row("arithmetic, TFLOP", [_WAYS[way] for way in ways])
    for part in ("forward", "backward"):
        yield _row(f"  {part}, a step", [_tera(data["flops"][f"{part}_per_step"])] * len(ways))
    if "reference" in found.flops:
        reference = _tera(data["flops"]["reference_per_step"])
        yield _row("  reference, a step", [reference if way == "live" else "-" for way in ways])
        yield _row("  scored once", ["-" if way == "live" else _tera(found.flops["reference"]) for way in ways])
    yield _row("whole run", [_tera(data["flops"][way]) for way in ways])
    if flops_per_second:
        yield _row("hours", [f"{data['seconds'][way] / 3600:.2f}" for way in ways])


def _row(words: str, cells: list[str]) -> str:
    return f"{words:<40}" + "".join(f"{cell:>16}" for cell in cells)


def _tera(flops: int) -> str:
    return f"{flops / 1e12:,.3g}" if flops < 1e15 else f"{flops / 1e12:,.0f}"
