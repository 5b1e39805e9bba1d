"""The reference of a run that reads it from the store: what is missing is scored first, then no model stays for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prefopt.config import RunConfig
from prefopt.data.row import Row
from prefopt.engine.logps import Scorer
from prefopt.errors import StoreError
from prefopt.reference.identity import identify
from prefopt.reference.loading import ReferenceModel
from prefopt.reference.mirror import default_cache_dir
from prefopt.reference.origin import origin
from prefopt.reference.relatives import nearly
from prefopt.reference.scoring import fill, missing_rows
from prefopt.reference.store import Store
from prefopt.reference.stored import StoredReference, check_against
from prefopt.watcher import Watcher


class CachedReference:
    """Reference log-probs of the rows of one run."""

    def __init__(self, config: RunConfig, rows: Sequence[Row], watcher: Watcher) -> None:
        """Look up every row, before any model is loaded.

        Args:
            config: the run's settings.
            rows: all rows of the run, held-out ones included.
            watcher: is told what is found and scored.

        Raises:
            ModelError: the reference cannot be identified.
            StoreError: the store is damaged or cannot be read, or with `strict` a row is missing.
        """
        settings = config.reference
        self._config = config
        self._rows = rows
        self._watcher = watcher
        self._model = settings.model or config.model
        self._identity = identify(self._model)
        self._store = Store(settings.cache_dir or default_cache_dir(), self._identity.digest)
        self._missing = missing_rows(self._store, rows)
        if not self._missing:
            return
        hint = nearly(self._store.place, self._identity, self._model.name)
        if settings.strict:
            because = f" ({hint})" if hint else ""
            raise StoreError(
                f"reference.strict: {len(self._missing):,} of {len(rows):,} rows are not in the log-prob store "
                f"{self._store.place!r}, {self._missing[0].name} first{because}; score them with `prefopt precompute`, "
                "or set reference.strict to false"
            )
        if hint:
            watcher.say(f"reference: {hint}; that is another reference, and nothing of it is used")
        self._store.check_writable()

    def complete(self, policy: Scorer, tokenizer: PreTrainedTokenizerBase) -> StoredReference:
        """Score what is missing, check a sample of what is not, and hand out the stored values.

        Args:
            policy: the model in training, before its first step: where the config names no other, it is the reference.
            tokenizer: the policy's.

        Raises:
            ModelError: the reference cannot be loaded or run.
            StoreError: values cannot be written, or stored ones are not the model's.
        """
        training, settings = self._config.training, self._config.reference
        other = None if settings.model is None else ReferenceModel(settings.model, tokenizer, self._watcher.say)
        model: Callable[[Sequence[Row]], Scorer] = other or (lambda _: policy)
        stored = StoredReference(
            self._store, device=policy.device, dtype=torch.promote_types(policy.model.dtype, torch.float32)
        )
        num_verified = 0
        missing = set(map(id, self._missing))
        known = [row for row in self._rows if id(row) not in missing]
        if other is None and known and settings.verify_rows:
            num_verified = min(settings.verify_rows, len(known))
            check_against(policy, self._store, known, num_rows=num_verified, seed=training.seed)
        scored = 0
        if self._missing:
            self._watcher.begin("score", len(self._missing))
            try:
                filled = fill(
                    self._store,
                    self._missing,
                    model,
                    tokens_per_microbatch=training.tokens_per_microbatch,
                    made_by=origin(self._identity, self._model.name, policy.device),
                    passed=self._watcher.scored,
                )
            finally:
                self._watcher.end()
            scored = filled.rows_scored
        self.record: dict[str, Any] = {
            "rows_scored": scored,
            "rows_reused": len(self._rows) - scored,
            "rows_verified": num_verified,
            "model_loaded": other is not None and other.loaded,
            "identity": self._identity.digest,
            "store": self._store.place,
        }
        self._watcher.say(
            f"reference: {scored:,} rows scored, {len(self._rows) - scored:,} read from {self._store.place}; no "
            "reference model stays loaded"
        )
        return stored
