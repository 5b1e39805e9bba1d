"""A whole training run: from a validated config to a trained model with its numbers."""

from __future__ import annotations

import copy
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import prefopt
from prefopt.config import RunConfig, to_yaml
from prefopt.data.row import Row
from prefopt.data.sources import Source
from prefopt.engine.loading import load_model, load_tokenizer
from prefopt.engine.logps import LogpSource, Scorer
from prefopt.engine.proven import proven
from prefopt.errors import ConfigError, NonFiniteLossError, StoreError
from prefopt.evaluation.rewards import HeldOut
from prefopt.evaluation.sampling import complete
from prefopt.preparation import check_needs, prepare
from prefopt.reference.cached import CachedReference
from prefopt.reference.loading import ReferenceModel
from prefopt.training.memory import peak_process_bytes
from prefopt.training.output import (
    CONFIG,
    LAST_GOOD,
    METRICS,
    RUN,
    MetricsLog,
    check_free,
    clear,
    save_state,
    write_json,
)
from prefopt.training.trainer import Step, Trainer
from prefopt.watcher import Watcher
from prefopt.weighted import Objective


def run(
    config: RunConfig,
    loss: Objective,
    *,
    train: Source | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    provenance: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train as the config says and write everything into its `output_dir`.

    Args:
        config: the validated config.
        loss: the loss it names, built by the registry.
        train: rows in memory or a `datasets.Dataset`, in place of the config's `data.train`.
        overwrite: replace an earlier run in `output_dir`.
        watcher: is told of progress.
        provenance: plugin -> version, kept in run.json.

    Returns:
        What run.json holds.

    Raises:
        PrefoptError: anything the user can mend: settings, data, model, or a loss that is not finite.
    """
    started = time.time()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(
            f"prefopt train was started with {processes} processes, but it runs in one; "
            "prefopt.training.trainer.Trainer takes several"
        )
    watcher = watcher or Watcher()
    output = Path(config.output_dir)
    check_free(output, overwrite=overwrite, inputs=_inputs(config))
    source = config.data.train if train is None else train
    check_needs(config, loss, source)
    tokenizer = load_tokenizer(config.model)
    data = prepare(config, loss, tokenizer, source)
    for report in data.reports.values():
        for line in report.lines():
            watcher.say(line)
    for note in data.notes:
        watcher.say(note)
    if config.reference.model is not None and not loss.needs.reference:
        watcher.say(f"loss {loss.name} reads no reference: reference.model is not loaded")
    if config.reference.update_steps is not None and not loss.needs.reference:
        watcher.say(f"loss {loss.name} reads no reference: reference.update_steps has no effect")
    if config.reference.mode == "cached" and not loss.needs.reference:
        watcher.say(f"loss {loss.name} reads no reference: the store is not used")

    rows = [*data.train, *data.evaluation]
    mode = config.reference.mode if loss.needs.reference else "none"
    cached = CachedReference(config, rows, watcher) if mode == "cached" else None
    reference: LogpSource | None = None
    used: dict[str, Any] = {"mode": mode, "model_loaded": False}
    if cached is not None and not cached.is_policy:  # before the policy is there, so that one model is enough
        reference, found = cached.complete(tokenizer)
        used |= found
    policy, notes = proven(load_model(config.model, seed=config.training.seed), config.model.name, tokenizer, rows)
    for note in notes:
        watcher.say(note)
    if cached is not None and cached.is_policy:
        reference, found = cached.complete(tokenizer, policy)
        used |= found
    elif mode == "live":
        reference, used["model_loaded"] = _live(config, policy, tokenizer, rows, watcher), True
    trainer = Trainer(policy, reference, loss, data.train, config.training, moving=config.reference)
    evaluation = _Evaluation(config, loss, data.evaluation, tokenizer, watcher)
    for note in _without_effect(config, trainer.num_steps, len(data.evaluation)):
        watcher.say(note)

    clear(output)
    (output / CONFIG).write_text(to_yaml(config), encoding="utf-8")
    before = evaluation.before(policy, reference, initial=config.reference.model is None)

    def after_step(step: Step) -> None:
        metrics = dict(step.metrics)
        every = config.evaluation.every_steps
        if every and step.number % every == 0 and step.number < trainer.num_steps:
            metrics["evaluation"] = evaluation.whole(f"step {step.number}", policy, trainer.state)
        log.write(metrics)
        watcher.step(metrics)

    watcher.begin("train", trainer.num_steps)
    try:
        with MetricsLog(output / METRICS) as log:
            trainer.run(after_step)
    except (NonFiniteLossError, StoreError, KeyboardInterrupt) as error:
        last_good = output / LAST_GOOD
        _save(policy.model, tokenizer, last_good)
        save_state(trainer.state, last_good)
        kept = f"the weights as they stood are in {last_good}"
        if not isinstance(error, KeyboardInterrupt):
            raise type(error)(f"{error}; {kept}") from None
        watcher.say(kept)
        raise
    finally:
        watcher.end()

    _save(policy.model, tokenizer, output)
    save_state(trainer.state, output)
    after = evaluation.after(policy, trainer.state)
    record = {
        "prefopt": prefopt.__version__,
        "loss": loss.name,
        "seed": config.training.seed,
        "num_steps": trainer.num_steps,
        "data": {name: report.as_dict() for name, report in data.reports.items()}
        | {"notes": data.notes, "held_out": [row.number for row in data.evaluation]},
        "packed_trees": policy.packed,
        "chunked_head": policy.head is not None,
        "reference": used,
        "evaluation": {"before": before, "after": after},
        "wall_seconds": round(time.time() - started, 2),
        "peak_memory_bytes": _peak_memory_bytes(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "plugins": dict(provenance or {}),
    }
    write_json(output / RUN, record)
    return record


class _Evaluation:
    """Held-out rows before, during and after training; does nothing where the config names none."""

    def __init__(
        self,
        config: RunConfig,
        loss: Objective,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        watcher: Watcher,
    ) -> None:
        self._settings = config.evaluation
        self._loss = loss
        self._tokenizer = tokenizer
        self._watcher = watcher
        self._prompts = [row.prompt for row in rows[: config.evaluation.samples]]
        self._held_out = None
        if rows:
            self._held_out = HeldOut(rows, loss, tokens_per_microbatch=config.training.tokens_per_microbatch)

    def before(self, policy: Scorer, reference: LogpSource | None, *, initial: bool) -> dict[str, Any]:
        if self._held_out is None:
            return {}
        if reference is not None:
            self._held_out.score_reference(reference)
        # A policy that is still its own reference has the same log-probs: one pass serves both.
        same = reference is not None and initial and self._loss.needs.distribution is None
        return self.whole("before", None if same else policy) | self._samples(policy)

    def after(self, policy: Scorer, state: Mapping[str, Tensor]) -> dict[str, Any]:
        return {} if self._held_out is None else self.whole("after", policy, state) | self._samples(policy)

    def whole(self, when: str, policy: Scorer | None, state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        assert self._held_out is not None
        found = self._held_out.evaluate(policy, state).as_dict()
        self._watcher.evaluated(when, found)
        return found

    def _samples(self, policy: Scorer) -> dict[str, Any]:
        if not self._prompts:
            return {}
        texts = complete(policy.model, self._tokenizer, self._prompts, max_new_tokens=self._settings.max_new_tokens)
        prompts = [self._tokenizer.decode(list(prompt)) for prompt in self._prompts]
        return {
            "samples": [{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, texts, strict=True)]
        }


def _without_effect(config: RunConfig, num_steps: int, num_held_out: int) -> list[str]:
    """Settings that reach beyond the run they are in, a sentence each."""
    training, evaluation = config.training, config.evaluation
    notes = []
    if config.model.dtype in ("bfloat16", "float16"):
        notes.append(
            f"model.dtype = {config.model.dtype}: weights are updated and gradients of micro-batches added in "
            "that precision too, where what is below about a thousandth of a value is lost; small learning rates need "
            "float32"
        )
    if training.warmup_steps >= num_steps:
        notes.append(
            f"training.warmup_steps = {training.warmup_steps}, but the run takes {num_steps} steps: the learning rate "
            "never reaches its peak"
        )
    every = config.reference.update_steps
    if every is not None and every >= num_steps:
        notes.append(
            f"reference.update_steps = {every}, but the run takes {num_steps} steps: the reference stays as it is"
        )
    if every is not None and num_held_out:
        notes.append(
            "the reference moves (reference.update_steps); held-out rows are held against the one the run begins with, "
            "steps against the one of their time"
        )
    if evaluation.every_steps is not None and evaluation.every_steps >= num_steps:
        notes.append(f"evaluation.every_steps = {evaluation.every_steps}, but the run takes {num_steps} steps")
    if evaluation.samples > num_held_out:
        notes.append(f"evaluation.samples = {evaluation.samples}, but only {num_held_out} rows are held out")
    return notes


def _inputs(config: RunConfig) -> list[str]:
    models = [config.model, config.reference.model]
    sources = [config.data.train, config.data.evaluation]
    places = [model.name for model in models if model] + [source for source in sources if isinstance(source, str)]
    return [*places, *(plugin.path for plugin in config.plugins)]


def _live(
    config: RunConfig,
    policy: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    watcher: Watcher,
) -> Scorer:
    """The model that stays in memory beside the policy."""
    if config.reference.model is None:
        return copy.deepcopy(policy)  # the policy has not moved yet
    return ReferenceModel(config.reference.model, tokenizer, watcher.say)(rows)


def _save(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _peak_memory_bytes() -> dict[str, int]:
    peak = {"process": peak_process_bytes()}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def versions() -> dict[str, str]:
    """Python's version and those of the libraries that numbers depend on."""
    packages = ("torch", "transformers", "accelerate", "datasets")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
