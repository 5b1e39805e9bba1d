"""Scoring the reference offline: every row of a config into the store; no optimiser, no policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from accelerate import PartialState

from prefopt.config import RunConfig
from prefopt.data.mixture import TrainSource
from prefopt.engine.loading import load_tokenizer
from prefopt.engine.ranks import Ranks
from prefopt.errors import ConfigError, StoreError
from prefopt.preparation import check_needs, stream
from prefopt.reference.loading import ReferenceModel
from prefopt.reference.opening import open_reference
from prefopt.reference.origin import origin
from prefopt.reference.reading import check_against
from prefopt.reference.relatives import nearly
from prefopt.reference.scoring import fill, look_up
from prefopt.watcher import Watcher
from prefopt.weighted import Objective


def precompute(
    config: RunConfig, loss: Objective, *, train: TrainSource | None = None, watcher: Watcher | None = None
) -> dict[str, Any]:
    """Score what the store lacks of the rows of a run.

    Started in several processes (`accelerate launch`, `torchrun`), each scores a part.

    Args:
        config: the validated config of the run that will read the store.
        loss: the loss it names, which says whether mismatched completions are needed.
        train: rows in memory or a `datasets` dataset, streaming or not, in place of the config's `data.train`.
        watcher: is told of progress, in the first process.

    Returns:
        identity, store, rows_scored, rows_reused, num_completions, model_loaded, wall_seconds.

    Raises:
        PrefoptError: anything the user can mend: settings, data, model, or a store that cannot be written.
    """
    started = time.perf_counter()
    if not loss.needs.reference:
        raise ConfigError(
            f"loss {loss.name} reads no reference, so there is nothing to score; name the loss that will read it, as "
            "in loss=NAME"
        )
    if config.reference.update_steps is not None:
        raise ConfigError(
            "reference.update_steps moves the reference during training, so there is nothing to score before; remove it"
        )
    source = config.data.train if train is None else train
    check_needs(config, loss, source)
    # Shares of the work are not alike, so no process may be given up for being late.
    ranks = Ranks.started(timeout=timedelta(days=30))
    watcher = watcher if watcher is not None and ranks.index == 0 else Watcher()
    tokenizer = load_tokenizer(config.model)
    reference = open_reference(config)
    reference.store.check_writable()
    data = stream(config, loss, tokenizer, source)
    model = ReferenceModel(reference.settings, tokenizer, watcher.say, reference.identity)
    watcher.say(reference.in_words)
    watcher.begin("score", data.total)
    try:
        filled = fill(
            reference.store,
            data.rows,
            model,
            tokens_per_microbatch=config.training.tokens_per_microbatch,
            made_by=origin(reference.identity, reference.settings.name, PartialState().device),
            ranks=ranks,
            passed=watcher.scored,
        )
    finally:
        watcher.end()
    for line in [line for report in data.reports.values() for line in report.lines()] + data.notes:
        watcher.say(line)
    scored, reused, completions = ranks.total(filled.rows_scored, filled.rows_reused, filled.num_completions)
    found = {
        "identity": reference.identity.digest,
        "store": reference.store.whole_place,
        "rows_scored": scored,
        "rows_reused": reused,
        "num_completions": completions,
        "model_loaded": model.loaded,
        "wall_seconds": round(time.perf_counter() - started, 2),
    }
    watcher.say(
        f"scored  {scored:,} rows ({completions:,} completions) in {found['wall_seconds']:.1f} s; {reused:,} rows were "
        "there already"
    )
    if config.reference.mode != "cached":
        watcher.say(f"reference.mode is {config.reference.mode!r}: to read the store, train with reference.mode=cached")
    return found


def rescore(
    config: RunConfig, loss: Objective, *, num_rows: int, say: Callable[[str], None], cache_dir: str | None = None
) -> tuple[int, float]:
    """Score a sample of the rows of a run again and hold it against the store.

    Args:
        config: names the rows, the reference and the store.
        loss: the loss it names.
        num_rows: size of the sample.
        say: is told what the model does not take.
        cache_dir: the store, if not the config's.

    Returns:
        Rows scored again, and the largest difference of one: root mean square over its tokens, nats.

    Raises:
        StoreError: no row is stored, or one is not what the model gives.
    """
    reference = open_reference(config, cache_dir)
    store, name = reference.store, reference.settings.name
    tokenizer = load_tokenizer(config.model)
    rows = list(stream(config, loss, tokenizer, config.data.train).rows)
    known, _ = look_up(store, rows)
    if not known:
        hint = None if store.shards else nearly(store.place, reference.identity, name)
        because = f" ({hint})" if hint else ""
        raise StoreError(f"none of the {len(rows):,} rows is in the log-prob store {store.place!r}{because}")
    model = ReferenceModel(reference.settings, tokenizer, say, reference.identity)(known)
    count = min(num_rows, len(known))
    return count, check_against(model, store, known, num_rows=count, seed=config.training.seed)
