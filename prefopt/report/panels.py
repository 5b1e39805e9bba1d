"""Which plots the page has, and in which words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prefopt.report.reading import Run


@dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        title, unit: what it shows, in what.
        lines: (name in metrics.jsonl, name beside the run's); the first is drawn solid, the second dashed.
        text: one sentence below the title.
        own_units: whether values of different losses are in different units.
        held_out: whether it shows evaluations of held-out rows.
        ends: fixed ends of the axis.
        scale: values are divided by it.
        noisy: whether smoothing helps.
    """

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    text: str = ""
    own_units: bool = False
    held_out: bool = False
    ends: tuple[float, float] | None = None
    scale: float = 1.0
    noisy: bool = True


_SHARE = (-0.02, 1.02)

PANELS = (
    Panel("loss", "as the loss defines it", (("loss", ""),), "Mean over the rows of the step.", own_units=True),
    Panel(
        "rewards",
        "the loss's own units",
        (("chosen_reward", "chosen"), ("rejected_reward", "rejected")),
        "Implicit rewards: solid chosen, dashed rejected.",
        own_units=True,
    ),
    Panel(
        "reward margin",
        "the loss's own units",
        (("reward_margin", ""),),
        "Chosen less rejected reward.",
        own_units=True,
    ),
    Panel(
        "reward accuracy",
        "share of pairs",
        (("reward_accuracy", ""),),
        "Pairs whose better completion has the higher reward.",
        ends=_SHARE,
    ),
    Panel(
        "KL to the reference",
        "nats a token",
        (("kl_per_token", ""),),
        "Half the mean squared log-ratio on the data, which are no samples of the policy.",
    ),
    Panel(
        "displacement",
        "nats a completion",
        (("chosen_log_ratio", "chosen"), ("rejected_log_ratio", "rejected")),
        "Log-probs less the reference's: solid chosen, dashed rejected; chosen below 0: pushed down.",
    ),
    Panel(
        "log-probs",
        "nats a completion",
        (("chosen_logps", "chosen"), ("rejected_logps", "rejected")),
        "Of the policy: solid chosen, dashed rejected.",
    ),
    Panel(
        "saturated rows", "share of rows", (("saturated", ""),), "Less than 1 % of the gradient is left.", ends=_SHARE
    ),
    Panel(
        "lengths",
        "scored tokens",
        (("chosen_length", "chosen"), ("rejected_length", "rejected")),
        "Of the data's completions: solid chosen, dashed rejected.",
    ),
    Panel("gradient norm", "before clipping", (("grad_norm", ""),)),
    Panel("learning rate", "", (("learning_rate", ""),), noisy=False),
    Panel("throughput", "tokens a second", (("tokens_per_second", ""),), "Of all processes together."),
    Panel(
        "peak memory",
        "GiB",
        (("peak_memory_bytes", "process"), ("peak_cuda_bytes", "CUDA")),
        "So far, of the first process: solid all of it, dashed on the GPU.",
        scale=2.0**30,
        noisy=False,
    ),
)

_HELD_OUT = {
    "loss": Panel("held-out loss", "as the loss defines it", (("loss", ""),), own_units=True, held_out=True),
    "reward_accuracy": Panel(
        "held-out reward accuracy",
        "share of pairs",
        (("reward_accuracy", ""),),
        "With 95 % Wilson intervals.",
        held_out=True,
        ends=_SHARE,
    ),
    "reward_margin": Panel(
        "held-out reward margin", "the loss's own units", (("reward_margin", ""),), own_units=True, held_out=True
    ),
}
_DRAWN = {name for panel in PANELS for name, _ in panel.lines}
_NOT_DRAWN = {"step", "loss_error", "num_rows", "num_tokens", "step_seconds", "evaluation"}
_COUNTS = {"num_pairs"}


def panels(runs: Iterable[Run]) -> list[Panel]:
    """The plots that there is something to draw for, held-out rows first, what a loss measures itself last."""
    known = list(runs)
    names = dict.fromkeys(
        name for run in known for step in run.steps for name, value in step.items() if _drawable(value)
    )
    evaluated = dict.fromkeys(
        name for run in known for _, values in run.held_out for name, value in values.items() if _drawable(value)
    )
    held_out = [
        _HELD_OUT.get(name) or Panel(f"held-out {_in_words(name)}", "", ((name, ""),), held_out=True)
        for name in [*_HELD_OUT, *(name for name in evaluated if name not in _HELD_OUT)]
        if name in evaluated and name not in _COUNTS
    ]
    own = [
        Panel(_in_words(name), "as the loss defines it", ((name, ""),), "Measured by the loss itself.", own_units=True)
        for name in names
        if name not in _DRAWN | _NOT_DRAWN
    ]
    return [*held_out, *(panel for panel in PANELS if any(name in names for name, _ in panel.lines)), *own]


def _drawable(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_words(name: str) -> str:
    return name.replace("_", " ")
