"""A whole training run: from a validated config to a trained model with its numbers."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import prefopt
from prefopt.advice import advice
from prefopt.advice.effects import effects_advice
from prefopt.config import RunConfig, to_yaml
from prefopt.data.mixture import TrainSource, parts_of
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.logps import LogpSource, Scorer
from prefopt.engine.proven import proven
from prefopt.errors import ConfigError, DivergenceError, NonFiniteLossError, OutputError, StoreError
from prefopt.evaluation.during import DuringTraining
from prefopt.preparation import check_needs, prepare
from prefopt.reference.cached import CachedReference
from prefopt.reference.live import live_reference
from prefopt.training.checkpoints import read_facts
from prefopt.training.keeper import Keeper
from prefopt.training.memory import peak_process_bytes
from prefopt.training.optimization import check_optimizer
from prefopt.training.output import (
    CONFIG,
    LAST_GOOD,
    LISTING,
    RUN,
    check_free,
    clear,
    read_json,
    save_state,
    write_json,
    write_text,
)
from prefopt.training.placement import Placement
from prefopt.training.resume import agree_on, find_checkpoint
from prefopt.training.saving import save_policy
from prefopt.training.trackers import Trackers
from prefopt.training.trainer import Trainer
from prefopt.watcher import Watcher
from prefopt.weighted import Objective


def run(
    config: RunConfig,
    loss: Objective,
    *,
    train: TrainSource | None = None,
    overwrite: bool = False,
    resume: bool = False,
    watcher: Watcher | None = None,
    provenance: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train as the config says and write everything into its `output_dir`.

    Started in several processes (`accelerate launch`, `torchrun`), they share every batch; the first one writes.

    Args:
        config: the validated config.
        loss: the loss it names, built by the registry.
        train: rows in memory or a `datasets` dataset, streaming or not, in place of the config's `data.train`.
        overwrite: replace an earlier run in `output_dir`.
        resume: go on after the last checkpoint in `output_dir`, if there is one; a run that is complete stays as it is.
        watcher: is told of progress, in the first process.
        provenance: plugin -> version, kept in run.json.

    Returns:
        What run.json holds.

    Raises:
        PrefoptError: anything the user can mend: settings, data, model, or a loss that is not finite.
        KeyboardInterrupt: it was told to stop; a checkpoint is kept.
    """
    started = time.time()
    placement = Placement()
    ranks = placement.ranks
    watcher = watcher if watcher is not None and ranks.index == 0 else Watcher()
    output = Path(config.output_dir)
    checkpoint = find_checkpoint(config) if resume else None
    finished = read_json(output / RUN) if resume and (output / RUN).exists() else None
    agree_on(checkpoint, ranks)
    if checkpoint is None and finished is None:
        check_free(output, overwrite=overwrite or resume, inputs=_inputs(config))
    ranks.wait()
    trackers = Trackers(config, None if checkpoint is None else read_facts(checkpoint)["step"], watcher)
    source = config.data.train if train is None else train
    check_needs(config, loss, source)
    check_optimizer(config.training)
    if placement.shards:
        _check_shards(config)
    tokenizer = load_tokenizer(config.model)
    data = prepare(config, loss, tokenizer, source, listing=output / LISTING if ranks.index == 0 else None)
    for report in data.reports.values():
        for line in report.lines():
            watcher.say(line)
    num_steps, num_held_out = data.batches.num_steps, len(data.evaluation)
    advised = [*effects_advice(config, loss, num_steps, num_held_out), *advice(config, loss, data)]
    for note in [*data.notes, *advised]:
        watcher.say(note)

    if finished is not None and finished["num_steps"] == num_steps:
        watcher.say(f"the run in {output} is complete: all {num_steps} steps are taken")
        return finished
    if finished is not None and checkpoint is None:
        raise OutputError(
            f"the run in {str(output)!r} is complete after {finished['num_steps']} steps and kept no checkpoint to go "
            "on from; set checkpoints.every_steps in a run that is to be continued"
        )

    mode = config.reference.mode if loss.needs.reference else "none"
    cached = CachedReference(config, data.rows, watcher, ranks) if mode == "cached" else None
    reference: LogpSource | None = None
    used: dict[str, Any] = {"mode": mode, "model_loaded": False}
    if cached is not None and not cached.is_policy:  # before the policy is there, so that one model is enough
        reference, found = cached.complete(tokenizer)
        used |= found
    loaded = load_model(config.model, seed=config.training.seed)
    policy, notes = proven(loaded, config.model.name, tokenizer, data.telling, autocast=config.model.autocast)
    for note in notes:
        watcher.say(note)
    identity = fingerprint(policy)
    if cached is not None and cached.is_policy:
        reference, found = cached.complete(tokenizer, policy)
        used |= found
    elif mode == "live":
        reference, found = live_reference(config, policy, tokenizer, data.telling, watcher.say)
        used |= found
    trainer = Trainer(policy, reference, loss, data.batches, config.training, moving=config.reference)
    evaluation = DuringTraining(config, loss, data.evaluation, tokenizer, watcher, ranks)

    keeper = Keeper(config, loss, trainer, trackers, {"data": data.batches.identity, "model": identity}, watcher)
    if ranks.index == 0 and checkpoint is None:
        clear(output)
        write_text(output / CONFIG, to_yaml(config))
    evaluation.score_reference(reference)
    if checkpoint is None:
        keeper.begin(evaluation.before(policy, is_reference=reference is not None and config.reference.model is None))
    else:
        keeper.go_on(checkpoint)
        if ranks.index == 0:
            write_text(output / CONFIG, to_yaml(config))

    def save(folder: Path) -> None:
        merge = config.model.adapter is not None and config.model.adapter.merge
        save_policy(policy.model, tokenizer, folder, merge=merge, ranks=ranks)

    def evaluate(when: str) -> dict[str, Any]:
        return evaluation.whole(when, policy, trainer.state)

    watcher.begin("train", trainer.num_steps)
    try:
        keeper.run(evaluate, save)
    except (DivergenceError, NonFiniteLossError, StoreError) as error:
        last_good = output / LAST_GOOD
        save(last_good)
        if ranks.index == 0:
            save_state(trainer.state, last_good)
        ranks.wait()  # a launcher ends all processes as soon as one has ended
        raise type(error)(f"{error}; the weights as they stood are in {last_good}") from None
    finally:
        watcher.end()

    for line in data.conclude():
        watcher.say(line)
    save(output)  # before anything else can go wrong
    if ranks.index == 0:
        save_state(trainer.state, output)
    after = evaluation.after(policy, trainer.state)
    keeper.offer(trainer.num_steps, after, save)
    record = {
        "prefopt": prefopt.__version__,
        "loss": loss.name,
        "seed": config.training.seed,
        "num_steps": trainer.num_steps,
        "data": {name: report.as_dict() for name, report in data.reports.items()}
        | {"notes": data.notes, "held_out": [row.name for row in data.evaluation]},
        "packed_trees": policy.packed,
        "chunked_head": policy.head is not None,
        "reference": used,
        "evaluation": {"before": keeper.before, "after": after},
        "warnings": [*advised, *keeper.warnings],
        "trackers_failed": trackers.failed,
        "wall_seconds": round(time.time() - started + keeper.seconds_before, 2),
        "resumed_after_steps": keeper.resumed_after,
        "peak_memory_bytes": _peak_memory_bytes(),
        "num_processes": ranks.count,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "plugins": dict(provenance or {}),
    }
    if ranks.index == 0:
        write_json(output / RUN, record)
    ranks.wait()
    watcher.say(f"wrote   {output}")
    return record


def _check_shards(config: RunConfig) -> None:
    """Refuse what needs the whole model in one process."""
    if config.evaluation.samples:
        raise ConfigError(
            "evaluation.samples needs the whole model in each process, and this run holds it in shards; set it to 0, "
            "and sample with `prefopt evaluate` afterwards"
        )
    if config.model.adapter is not None and config.model.adapter.merge:
        raise ConfigError(
            "model.adapter.merge needs the whole model in one process, and this run holds it in shards; set it to false"
        )


def _inputs(config: RunConfig) -> list[str]:
    models = [config.model, config.reference.model]
    sources = [*(part.source for part in parts_of(config.data.train)), config.data.evaluation]
    places = [model.name for model in models if model] + [source for source in sources if isinstance(source, str)]
    return [*places, *(plugin.path for plugin in config.plugins)]


def fingerprint(policy: Scorer) -> str:
    """Digest of the beginning of every weight of a model, to tell whether another one lies in its place."""
    beginnings = [own.detach().flatten()[:8].double() for own in policy.parameters()]
    return hashlib.sha256(torch.cat(beginnings).cpu().numpy().tobytes()).hexdigest()


def _peak_memory_bytes() -> dict[str, int]:
    peak = {"process": peak_process_bytes()}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that numbers depend on."""
    packages = ("torch", "transformers", "accelerate", "datasets")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
