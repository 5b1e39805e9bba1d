"""The section `data`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from prefopt.config.place import Place
from prefopt.section import Section


class PartConfig(Section):
    """One source of a mixture."""

    source: Place
    """As `train` where that is one source."""
    weight: float = Field(1.0, ge=1e-9, le=1e9, allow_inf_nan=False)
    """How often a row is drawn from it, beside the weights of the others."""


def _listed(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    if not value:
        raise ValueError("data.train = []: it must not be empty")
    return tuple({"source": part} if isinstance(part, str) else part for part in value)


# Tags that begin so are left out where errors name a key; what is no list is judged as text.
_TrainSource = Annotated[
    Annotated[Place, Tag("constrained-place")] | Annotated[tuple[PartConfig, ...], Tag("constrained-mixture")],
    Discriminator(lambda value: "constrained-mixture" if isinstance(value, tuple) else "constrained-place"),
    BeforeValidator(_listed),
]


class DataConfig(Section):
    """Which rows, and what is done with those that do not fit."""

    train: _TrainSource
    """A .jsonl, .json or .parquet file, a folder, or a Hub id; `[a:b]` after it takes those rows. Or a mixture: a list
    of mappings with `source` and `weight`."""
    evaluation: Place | Annotated[int, Field(ge=1)] | None = None
    """Held-out rows, named in the same way; or a number of rows of `train` to set aside, the same in every run (of a
    stream: its first ones; of a mixture: shared out by weight)."""
    max_length: int = Field(1024, ge=2)
    """Tokens of prompt and longest completion together; what exceeds it is truncated and reported."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at a row that cannot be used, or leave it out, count it and list it."""
    mixture_ends: Literal["first", "all"] = "first"
    """An epoch of a mixture is as long as its first source lasts, or as all of them do, those that end before beginning
    again."""
    num_proc: int = Field(1, ge=1)
    """Processes that tokenise what is read before training; the rows are the same."""
    cache_dir: Place | None = None
    """Folder for tokenised rows, which the next run finds again; null: ~/.cache/prefopt/rows."""
    streaming: bool = False
    """Read rows while training, in order, without a pass over them before; needs training.max_steps."""
    shuffle_buffer: int = Field(1000, ge=1)
    """Of a stream: how many rows are held to draw the next one from; 1: the order of the source."""

    @model_validator(mode="after")
    def _go_together(self) -> DataConfig:
        if isinstance(self.train, str) and self.mixture_ends != "first":
            raise ValueError("data.mixture_ends has no effect where data.train is one source; remove it")
        if self.streaming and not isinstance(self.evaluation, str):
            for key in ("num_proc", "cache_dir"):
                if getattr(self, key) != DataConfig.model_fields[key].default:
                    raise ValueError(f"data.{key} has no effect with data.streaming, which tokenises as rows come")
        if not self.streaming and self.shuffle_buffer != DataConfig.model_fields["shuffle_buffer"].default:
            raise ValueError("data.shuffle_buffer has no effect without data.streaming: every epoch is a fresh order")
        return self
