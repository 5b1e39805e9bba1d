"""What `prefopt evaluate` prints: the numbers of evaluation.json in under 80 columns, unless a name is long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NAMED = 3  # rows, where there may be many


def summary(record: Mapping[str, Any]) -> list[str]:
    """The lines.

    Args:
        record: what evaluation.json holds.
    """
    return [
        f"model      {record['model']['name']}",
        f"reference  {record['reference']['name']}  ({record['reference']['mode']})",
        f"held out   {record['data']['num_rows']:,} rows, loss {record['loss']}",
        "+- is the standard error of a mean, [ , ] a 95 % interval",
        "",
        *_held_out(record),
        *_displacement(record),
        *_divergence(record),
        *_written(record),
        *_win_rate(record),
    ]


def _held_out(record: Mapping[str, Any]) -> Iterator[str]:
    found = record["held_out"]
    yield _line("loss", _number(found["loss"], ".4f"))
    if "margins" not in found:
        return
    accuracy, interval = found["reward_accuracy"], found["reward_accuracy_interval"]
    yield _line("reward accuracy", f"{accuracy:.3f} {_interval(interval)}  {found['num_pairs']:,} pairs")
    yield _line("reward margin", _mean(found["margins"], "+.4f"))
    quantiles = found["margins"]["quantiles"].items()
    yield _line("  quantiles", ", ".join(f"{100 * float(q):.0f} % {_number(own, '+.2f')}" for q, own in quantiles))
    own = found["calibration"]
    yield ""
    yield _line("calibration", f"expected error {own['expected_error']:.3f} of P(chosen) = sigmoid(margin)")
    scores = f"Brier {_number(own['brier'], '.4f')}, log loss {_number(own['log_loss'], '.4f')}"
    yield _line("", f"{scores} (0.25, 0.6931: knows nothing)")
    if not own["loss_is_bradley_terry"]:
        yield f"  sigmoid(margin) is not the chance that {record['loss']} itself goes by: its rewards"
        yield "  have units of their own, and the ranking of pairs says more than these chances"
    yield "  chance of the favourite   predicted   right   share of pairs"
    for part in own["bins"]:
        place = f"{part['low']:.2f} to {part['high']:.2f}"
        yield f"  {place:24} {part['predicted']:10.3f} {part['won']:7.3f} {part['share']:16.3f}"


def _displacement(record: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "log-prob against the reference, nats a completion"
    for side, own in record["displacement"].items():
        fell = f"fell in {100 * own['share_fell']:.0f} % of {own['log_ratio']['num']:,}"
        tokens = f"{own['num_tokens']['mean']:.1f} tokens"
        yield _line(f"  {side}", f"{_mean(own['log_ratio'], '+.3f')}  {fell}, {tokens} each")


def _divergence(record: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    if "kl" not in record:
        yield "KL(policy || reference) is not known: the reference is in the store alone; draw"
        yield "answers with evaluation.num_prompts, or take reference.mode=live"
        return
    yield "KL(policy || reference), nats"
    names = {"data": "  on the data", "sampled": "  on own answers"}
    for part, name in names.items():
        if part in record["kl"]:
            own = record["kl"][part]
            token = f"{_mean(own['per_token'], '.4f')} a token"
            yield _line(name, f"{token}, {_mean(own['per_completion'], '.3f')} a completion")


def _written(record: Mapping[str, Any]) -> Iterator[str]:
    if "samples" not in record:
        return
    yield ""
    count = f"{len(record['samples']):,} answers"
    if "written" not in record:
        yield _line("written", f"{count}, by the server")
        return
    own = record["written"]
    tokens = f"{_mean(own['num_tokens'], '.1f')} tokens each"
    yield _line("written", f"{count}, {tokens}, {100 * own['share_ended']:.0f} % ended")


def _win_rate(record: Mapping[str, Any]) -> Iterator[str]:
    if "win_rate" not in record:
        return
    own = record["win_rate"]
    judge = own["judge"]
    name = judge.get("name") or judge["model"]
    asked = f", {judge['prompt']}" if "prompt" in judge else ""
    against = "the reference's" if own["against"] == "reference" else "the data's chosen answers"
    yield ""
    yield f"against {against}, judged by {name}{asked}"
    if "rate" in own:
        parts = f"{own['wins']:,} won, {own['ties']:,} tied, {own['losses']:,} lost"
        yield _line("  win rate", f"{own['rate']:.3f} {_interval(own['interval'])}  {parts}")
    if "scores" in own:
        scores = own["scores"]
        both = f"{_mean(scores['policy'], '.3f')} against {_mean(scores['other'], '.3f')}"
        yield _line("  mean score", both)
    if "first_preferred" in own:
        yield _line("  shown first", f"{own['first_preferred']:.3f} of verdicts are for it (0.5: order plays no part)")
    if own["unreadable"]:
        count, names = len(own["unreadable"]), ", ".join(own["unreadable"][:_NAMED])
        yield _line("  no verdict", f"in {count:,} replies: {names}{', ...' if count > _NAMED else ''}")
    if own.get("texts_truncated"):
        yield _line("  truncated", f"{own['texts_truncated']:,} texts were longer than the reward model reads")
    if own["rows_without_other"]:
        yield _line("  left out", f"{own['rows_without_other']:,} rows without a good answer in the data")


def _line(name: str, value: str) -> str:
    return f"{name:17} {value}"


def _mean(own: Mapping[str, Any], form: str) -> str:
    error = own["standard_error"]
    return _number(own["mean"], form) + ("" if error is None else f" +- {_number(error, form.lstrip('+'))}")


def _interval(ends: list[float]) -> str:
    return f"[{ends[0]:.3f}, {ends[1]:.3f}]"


def _number(value: Any, form: str) -> str:
    """A number, or the name of one that JSON does not have."""
    return value if isinstance(value, str) else format(value, form)
