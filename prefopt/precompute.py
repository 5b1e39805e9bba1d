"""Scoring the reference offline: every row of a config into the store; no optimiser, no policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from accelerate import PartialState

from prefopt.config import RunConfig
from prefopt.data.sources import Source
from prefopt.engine.loading import load_tokenizer
from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError, StoreError
from prefopt.preparation import check_needs, stream
from prefopt.reference.identity import identify
from prefopt.reference.loading import ReferenceModel
from prefopt.reference.mirror import default_cache_dir
from prefopt.reference.origin import origin
from prefopt.reference.relatives import nearly
from prefopt.reference.scoring import fill, missing_rows
from prefopt.reference.store import Store
from prefopt.reference.stored import check_against
from prefopt.watcher import Watcher
from prefopt.weighted import Objective


def precompute(
    config: RunConfig, loss: Objective, *, train: Source | None = None, watcher: Watcher | None = None
) -> dict[str, Any]:
    """Score what the store lacks of the rows of a run.

    Started in several processes (`accelerate launch`, `torchrun`), each scores a part.

    Args:
        config: the validated config of the run that will read the store.
        loss: the loss it names, which says whether mismatched completions are needed.
        train: rows in memory or a `datasets` dataset, streaming or not, in place of the config's `data.train`.
        watcher: is told of progress.

    Returns:
        identity, rows_scored, rows_reused, num_completions, model_loaded, wall_seconds.

    Raises:
        PrefoptError: anything the user can mend: settings, data, model, or a store that cannot be written.
    """
    started = time.perf_counter()
    if not loss.needs.reference:
        raise ConfigError(
            f"loss {loss.name} reads no reference, so there is nothing to score; name the loss that will read it, as "
            "in loss=NAME"
        )
    watcher = watcher or Watcher()
    source = config.data.train if train is None else train
    check_needs(config, loss, source)
    ranks = Ranks.started()
    settings = config.reference.model or config.model
    tokenizer = load_tokenizer(config.model)
    identity = identify(settings)
    store = Store(config.reference.cache_dir or default_cache_dir(), identity.digest)
    store.check_writable()
    data = stream(config, loss, tokenizer, source)
    model = ReferenceModel(settings, tokenizer, watcher.say, seed=config.training.seed)
    watcher.begin("score", data.total)
    try:
        filled = fill(
            store,
            data.rows,
            model,
            tokens_per_microbatch=config.training.tokens_per_microbatch,
            made_by=origin(identity, settings.name, PartialState().device),
            ranks=ranks,
            passed=watcher.scored,
        )
    finally:
        watcher.end()
    for report in data.reports.values():
        for line in report.lines():
            watcher.say(line)
    for note in data.notes:
        watcher.say(note)
    scored, reused, completions = ranks.total(filled.rows_scored, filled.rows_reused, filled.num_completions)
    return {
        "identity": identity.digest,
        "store": str(store.place),
        "rows_scored": scored,
        "rows_reused": reused,
        "num_completions": completions,
        "model_loaded": model.loaded,
        "wall_seconds": round(time.perf_counter() - started, 2),
    }


def rescore(
    config: RunConfig, loss: Objective, cache_dir: str, *, num_rows: int, say: Callable[[str], None]
) -> tuple[int, float]:
    """Score a sample of the rows of a run again and hold it against the store.

    Args:
        config: names the rows and the reference.
        loss: the loss it names.
        cache_dir: the store.
        num_rows: size of the sample.
        say: is told what the model does not take.

    Returns:
        Rows scored again, and the largest difference of one: root mean square over its tokens, nats.

    Raises:
        StoreError: no row is stored, or one is not what the model gives.
    """
    settings = config.reference.model or config.model
    identity = identify(settings)
    store = Store(cache_dir, identity.digest)
    tokenizer = load_tokenizer(config.model)
    rows = list(stream(config, loss, tokenizer, config.data.train).rows)
    missing = set(map(id, missing_rows(store, rows)))
    known = [row for row in rows if id(row) not in missing]
    if not known:
        hint = nearly(cache_dir, identity, settings.name)
        raise StoreError(
            f"none of the {len(rows):,} rows is in the log-prob store {cache_dir!r}" + (f" ({hint})" if hint else "")
        )
    seed = config.training.seed
    model = ReferenceModel(settings, tokenizer, say, seed=seed)(known)
    return min(num_rows, len(known)), check_against(model, store, known, num_rows=num_rows, seed=seed)
