"""The section `reference`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefopt.config.model import ModelConfig
from prefopt.config.place import Place
from prefopt.section import Section


class ReferenceConfig(Section):
    """Where reference log-probs come from."""

    mode: Literal["cached", "live", "none"] = "live"
    """live: a second model in memory, only for losses that need a reference. cached: log-probs from the store, where
    those of new rows are scored first; no second model stays in memory. none: no loss may need one."""
    model: ModelConfig | None = None
    """The reference; absent: the initial policy."""
    cache_dir: Place | None = None
    """The store: a folder, or a URL that fsspec knows (s3://bucket/logps); null: ~/.cache/prefopt/references."""
    strict: bool = False
    """With mode cached: refuse to train while a completion is not in the store, instead of scoring it."""
    verify_rows: int = Field(8, ge=0)
    """With mode cached, where the reference is the initial policy: stored rows that are scored again before step 1 and
    must agree; 0: none."""
    update_steps: int | None = Field(None, ge=1)
    """With mode live: draw the reference towards the policy after every so many steps (TR-DPO)."""
    update_weight: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    """Share of the policy in the reference after such an update; 1 replaces it."""
