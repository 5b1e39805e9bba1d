"""Going on with a run: from which checkpoint, and whether it is the same run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefopt.config import RunConfig, as_values
from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError, OutputError
from prefopt.training.checkpoints import latest, read_facts
from prefopt.training.output import CHECKPOINTS, CONFIG
from prefopt.yaml_file import read_yaml

# What changes no number of the steps that are still to come, or is the reason for going on. Everything else would make
# the second half of a run one that no run from the beginning could repeat.
MAY_CHANGE = ("training.tokens_per_microbatch", "training.max_steps", "training.epochs", "tracking", "checkpoints")
_SAME_PLACE = "output_dir"


def find_checkpoint(config: RunConfig) -> Path | None:
    """The last checkpoint in the run's output folder; None where the run has kept none, or never begun.

    Raises:
        ConfigError: the folder holds a run with other settings; the message names them.
    """
    output = Path(config.output_dir)
    if not (output / CONFIG).exists():
        return None
    before = read_yaml(output / CONFIG)
    changed = list(_differences(before, as_values(config)))
    if changed:
        shown = "; ".join(changed[:3]) + (f"; and {len(changed) - 3} more" if len(changed) > 3 else "")
        raise ConfigError(
            f"--resume: the run in {str(output)!r} has other settings: {shown}; only {', '.join(MAY_CHANGE)} may "
            "change; set them back, or choose another output_dir"
        )
    return latest(output / CHECKPOINTS)


def _differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    if path == _SAME_PLACE or path in MAY_CHANGE:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(old, new, f"{path}.{index}")
    elif before != now:
        yield f"{path} was {before!r} and is {now!r}"


def agree_on(checkpoint: Path | None, ranks: Ranks) -> None:
    """Refuse to start where the processes do not see the same checkpoint.

    Raises:
        OutputError: they see others, or some see none.
    """
    step = -1 if checkpoint is None else int(read_facts(checkpoint)["step"])
    (first,) = ranks.total(step if ranks.index == 0 else 0)
    if ranks.any(step != first):
        raise OutputError("the processes see different checkpoints; put output_dir where all machines see it")
