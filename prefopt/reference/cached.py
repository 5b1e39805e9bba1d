"""The reference of a run that reads it from the store: what is missing is scored first, then no model stays for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from prefopt.config import RunConfig
from prefopt.data.row import Row
from prefopt.engine.logps import Scorer
from prefopt.engine.ranks import ALONE, Ranks
from prefopt.errors import StoreError
from prefopt.reference.loading import ReferenceModel, check_unchanged
from prefopt.reference.opening import open_reference
from prefopt.reference.origin import origin
from prefopt.reference.reading import StoredReference, check_against
from prefopt.reference.relatives import nearly
from prefopt.reference.scoring import fill, look_up
from prefopt.reference.store import Store
from prefopt.watcher import Watcher


class CachedReference:
    """Reference log-probs of the rows of one run.

    Attributes:
        is_policy: whether the initial policy is the reference, and scores what is missing.
    """

    def __init__(self, config: RunConfig, rows: Sequence[Row], watcher: Watcher, ranks: Ranks = ALONE) -> None:
        """Look up every row, before any model is loaded, and read what is stored once: damage shows now or never.

        Args:
            config: the run's settings.
            rows: all rows of the run, held-out ones included.
            watcher: is told what is found and scored.
            ranks: the processes of the run, which share the scoring.

        Raises:
            ModelError: the reference cannot be identified.
            StoreError: the store is damaged or cannot be read, or with `strict` a row is missing.
        """
        self._config = config
        self._rows = rows
        self._watcher = watcher
        self._ranks = ranks
        self._reference = open_reference(config)
        self.is_policy = self._reference.is_policy
        store, name = self._reference.store, self._reference.settings.name
        self._stored, self._missing = look_up(store, rows, ranks)
        if not self._missing:
            return
        hint = None if store.shards else nearly(store.place, self._reference.identity, name)
        if config.reference.strict:
            because = f" ({hint})" if hint else self._mismatched()
            raise StoreError(
                f"reference.strict: {len(self._missing):,} of {len(rows):,} rows are not in the log-prob store "
                f"{store.place!r}, {self._missing[0].name} first{because}; score them with `prefopt precompute`, or "
                "set reference.strict to false"
            )
        if hint:
            watcher.say(f"reference: {hint}; that is another reference, and nothing of it is used")
        store.check_writable()

    def _mismatched(self) -> str:
        """How many rows lack nothing of their own, where the loss reads mismatched completions."""
        own = [replace(row, mismatched=()) for row in self._missing]
        count = len(look_up(self._reference.store, own)[0])
        if not count:
            return ""
        return f" ({count:,} of them lack a mismatched completion alone, which follows from the rows around them)"

    def complete(
        self, tokenizer: PreTrainedTokenizerBase, policy: Scorer | None = None
    ) -> tuple[StoredReference, dict[str, Any]]:
        """Score what is missing and check a sample of what is not; no reference model is left afterwards.

        Args:
            tokenizer: the policy's.
            policy: the model in training, before its first step; asked for where it is the reference.

        Returns:
            The stored values, and what run.json keeps of them.

        Raises:
            ModelError: the reference cannot be loaded or run, or its files have changed.
            StoreError: values cannot be written, or stored ones are not the model's.
        """
        assert (policy is not None) == self.is_policy
        reference, training = self._reference, self._config.training
        verified = scored = 0
        other = None
        if policy is not None:
            check_unchanged(self._config.model, reference.identity)
            verified = self._verify(policy)
        else:
            other = ReferenceModel(reference.settings, tokenizer, self._watcher.say, reference.identity)
        model: Callable[[Sequence[Row]], Scorer] = other or (lambda _: policy)  # type: ignore[assignment,return-value]
        if self._missing:
            self._watcher.say(reference.in_words)
            self._watcher.begin("score", len(self._missing))
            try:
                filled = fill(
                    reference.store,
                    self._missing,
                    model,
                    tokens_per_microbatch=training.tokens_per_microbatch,
                    made_by=origin(reference.identity, reference.settings.name, PartialState().device),
                    ranks=self._ranks,
                    passed=self._watcher.scored,
                )
            except KeyboardInterrupt:
                self._watcher.say("what was scored is kept, and the next start goes on from there")
                raise
            finally:
                self._watcher.end()
            (scored,) = self._ranks.total(filled.rows_scored)
        self._watcher.say(
            f"reference: {scored:,} rows scored, {len(self._rows) - scored:,} read from {reference.store.place}; no "
            "reference model stays loaded"
        )
        dtype = torch.promote_types(getattr(torch, self._config.model.dtype), torch.float32)
        # A store sees what it wrote itself; what the other processes scored is in shards of theirs.
        store = reference.store if self._ranks.count == 1 else Store(reference.store.place, reference.identity.digest)
        return StoredReference(store, device=PartialState().device, dtype=dtype), {
            "rows_scored": scored,
            "rows_reused": len(self._rows) - scored,
            "rows_verified": verified,
            "model_loaded": other is not None and other.loaded,
            "identity": reference.identity.digest,
            "store": reference.store.whole_place,
        }

    def _verify(self, policy: Scorer) -> int:
        """Score a sample of the stored rows again; how many."""
        count = min(self._config.reference.verify_rows, len(self._stored))
        if count:
            check_against(policy, self._reference.store, self._stored, num_rows=count, seed=self._config.training.seed)
        return count
