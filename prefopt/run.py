"""A whole training run: from a validated config to a trained model with its numbers."""

from __future__ import annotations

import copy
import platform
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import prefopt
from prefopt.config import RunConfig, to_yaml
from prefopt.data.held_out import hold_out
from prefopt.data.load import load_rows
from prefopt.data.mismatch import add_mismatched
from prefopt.data.report import DataReport
from prefopt.data.row import Row
from prefopt.data.sources import row_kind
from prefopt.data.trees import grow, largest_sequence
from prefopt.engine.assembly import Assembly, reading
from prefopt.engine.loading import check_fit, load_model, load_tokenizer
from prefopt.engine.parity import takes_trees
from prefopt.errors import ConfigError, DataError, NonFiniteLossError
from prefopt.evaluation.rewards import HeldOut, RewardReport
from prefopt.evaluation.sampling import complete
from prefopt.training.output import CONFIG, METRICS, RUN, MetricsLog, check_free, clear, write_json
from prefopt.training.trainer import Step, Trainer
from prefopt.weighted import Objective


@dataclass
class Watcher:
    """Who is told what happens during a run. The silent watcher: every method does nothing.

    The command line has one that draws.
    """

    def say(self, line: str) -> None:
        """A fact worth a line."""

    def begin(self, num_steps: int) -> None:
        """Training starts."""

    def step(self, metrics: Mapping[str, Any]) -> None:
        """A step is done."""

    def evaluated(self, when: str, report: RewardReport) -> None:
        """Held-out rows were evaluated."""

    def end(self) -> None:
        """Training is over."""


@dataclass
class Prepared:
    """The rows of a run, ready for the engine."""

    train: list[Row]
    evaluation: list[Row]
    reports: dict[str, DataReport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(
    config: RunConfig,
    loss: Objective,
    *,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    provenance: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Train as the config says and write everything into its `output_dir`.

    Args:
        config: the validated config.
        loss: the loss it names, built by the registry.
        overwrite: replace an earlier run in `output_dir`.
        watcher: is told of progress.
        provenance: plugin -> version, kept in run.json.

    Returns:
        What run.json holds.

    Raises:
        PrefoptError: anything the user can mend: settings, data, model, or a loss that is not finite.
    """
    started = time.time()
    watcher = watcher or Watcher()
    output = Path(config.output_dir)
    check_free(output, overwrite=overwrite)
    for source in (config.data.train, config.data.evaluation):
        if isinstance(source, str):
            _check_reading(source, loss)
    _check_reference(config, loss, watcher)
    tokenizer = load_tokenizer(config.model)
    data = _prepare(config, loss, tokenizer)
    for report in data.reports.values():
        for line in report.lines():
            watcher.say(line)
    for note in data.notes:
        watcher.say(note)

    clear(output)
    (output / CONFIG).write_text(to_yaml(config), encoding="utf-8")

    policy = load_model(config.model)
    check_fit(policy, tokenizer, config.model.name)
    reference = _reference(config, loss, policy)
    shared_prompts = _takes_trees(policy, data.train, loss, watcher)
    trainer = Trainer(policy, reference, loss, data.train, config.training, shared_prompts=shared_prompts)
    evaluation = _Evaluation(config, loss, data.evaluation, tokenizer, watcher, shared_prompts=shared_prompts)
    before = evaluation.before(policy, reference, initial=config.reference.model is None)

    def after_step(step: Step) -> None:
        metrics = dict(step.metrics)
        every = config.evaluation.every_steps
        if every and step.number % every == 0 and step.number < trainer.num_steps:
            metrics["evaluation"] = evaluation.report(f"step {step.number}", policy)
        log.write(metrics)
        watcher.step(metrics)

    watcher.begin(trainer.num_steps)
    try:
        with MetricsLog(output / METRICS) as log:
            trainer.run(after_step)
    except (NonFiniteLossError, KeyboardInterrupt) as error:
        last_good = output / "last_good"
        _save(policy, tokenizer, last_good)
        kept = f"the weights before that step are in {last_good}"
        if isinstance(error, NonFiniteLossError):
            raise NonFiniteLossError(f"{error}; {kept}") from None
        watcher.say(kept)
        raise
    finally:
        watcher.end()

    after = evaluation.after(policy)
    _save(policy, tokenizer, output)
    record = {
        "prefopt": prefopt.__version__,
        "loss": loss.name,
        "seed": config.training.seed,
        "num_steps": trainer.num_steps,
        "data": {name: report.as_dict() for name, report in data.reports.items()} | {"notes": data.notes},
        "shared_prompts": shared_prompts,
        "evaluation": {"before": before, "after": after},
        "wall_seconds": round(time.time() - started, 2),
        "peak_memory_bytes": _peak_memory_bytes(),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
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
        *,
        shared_prompts: bool,
    ) -> None:
        self._settings = config.evaluation
        self._tokenizer = tokenizer
        self._watcher = watcher
        self._needs_reference = loss.needs.reference
        self._prompts = [row.prompt for row in rows[: config.evaluation.samples]]
        self._held_out = None
        if rows:
            self._held_out = HeldOut(
                rows,
                loss,
                tokens_per_microbatch=config.training.tokens_per_microbatch,
                shared_prompts=shared_prompts,
            )

    def before(self, policy: PreTrainedModel, reference: PreTrainedModel | None, *, initial: bool) -> dict[str, Any]:
        if self._held_out is None:
            return {}
        if reference is not None:
            self._held_out.score_reference(reference)
        # A policy that is still its own reference has the same log-probs: one pass serves both.
        same = reference is not None and initial
        return self._whole("before", None if same else policy) | self._samples(policy)

    def after(self, policy: PreTrainedModel) -> dict[str, Any]:
        return {} if self._held_out is None else self._whole("after", policy) | self._samples(policy)

    def report(self, when: str, policy: PreTrainedModel) -> dict[str, Any]:
        return self._whole(when, policy)

    def _whole(self, when: str, policy: PreTrainedModel | None) -> dict[str, Any]:
        assert self._held_out is not None
        report = self._held_out.evaluate(policy)
        self._watcher.evaluated(when, report)
        return report.as_dict()

    def _samples(self, policy: PreTrainedModel) -> dict[str, Any]:
        if not self._prompts:
            return {}
        texts = complete(policy, self._tokenizer, self._prompts, max_new_tokens=self._settings.max_new_tokens)
        prompts = [self._tokenizer.decode(list(prompt)) for prompt in self._prompts]
        return {
            "samples": [{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, texts, strict=True)]
        }


def _check_reading(source: str, loss: Objective) -> None:
    kind = row_kind(source)
    try:
        reading(kind, loss)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def _check_reference(config: RunConfig, loss: Objective, watcher: Watcher) -> None:
    mode = config.reference.mode
    if loss.needs.reference and mode == "none":
        raise ConfigError(f"loss {loss.name} needs reference log-probs, but reference.mode is 'none'; use 'live'")
    if not loss.needs.reference and config.reference.model is not None:
        watcher.say(f"loss {loss.name} reads no reference: reference.model is not loaded")
    if loss.needs.distribution or (loss.needs.state and loss.needs.tokens):
        raise ConfigError(f"loss {loss.name} needs next-token distributions, which this version does not compute")


def _prepare(config: RunConfig, loss: Objective, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    data, settings = Prepared([], []), config.data

    def load(source: str) -> tuple[list[Row], DataReport]:
        return load_rows(source, tokenizer, max_length=settings.max_length, on_bad_row=settings.on_bad_row)

    data.train, data.reports["train"] = load(settings.train)
    if isinstance(settings.evaluation, int):
        data.train, data.evaluation = hold_out(data.train, settings.evaluation)
        data.notes.append(f"{len(data.evaluation)} rows of {settings.train} are held out for evaluation")
    elif settings.evaluation is not None:
        data.evaluation, data.reports["evaluation"] = load(settings.evaluation)

    if loss.needs.mismatched:
        data.train = _with_mismatched("training", data.train, config, data.notes)
        data.evaluation = _with_mismatched("held-out", data.evaluation, config, data.notes)
    _check_labels(settings.train, data.train, loss)
    for rows in filter(None, (data.train, data.evaluation)):
        _check_scores(rows, loss)
        _check_budget(rows, config)
    held_out = {row.prompt for row in data.evaluation if len(row.prompt) > 1}
    shared = len(held_out & {row.prompt for row in data.train})
    if shared:
        data.notes.append(f"{shared} of {len(held_out)} held-out prompts also stand in the training rows")
    return data


def _with_mismatched(part: str, rows: Sequence[Row], config: RunConfig, notes: list[str]) -> list[Row]:
    if not rows:
        return []
    found, num_alike = add_mismatched(rows, max_length=config.data.max_length)
    if num_alike:
        notes.append(
            f"{num_alike} {part} rows found no other prompt: their mismatched completion is the next row's, under the "
            "same prompt"
        )
    return found


def _check_scores(rows: Sequence[Row], loss: Objective) -> None:
    for row in rows:
        if loss.needs.scores and any(completion.score is None for completion in row.completions):
            raise DataError(f"{row.name}: loss {loss.name} needs a score for every completion, and one has none")


def _check_labels(source: str, rows: Sequence[Row], loss: Objective) -> None:
    if rows[0].kind == "labels" and len({row.desirable for row in rows}) == 1:
        which = "desirable (label true)" if rows[0].desirable else "undesirable (label false)"
        raise DataError(
            f"{source}: all {len(rows)} rows are {which}; loss {loss.name} contrasts desirable with undesirable "
            "completions and needs both"
        )


def _check_budget(rows: Sequence[Row], config: RunConfig) -> None:
    needed, row = largest_sequence(rows)
    budget = config.training.tokens_per_microbatch
    if needed > budget:
        raise ConfigError(
            f"{row.name}: prompt and one completion take {needed} tokens, but training.tokens_per_microbatch is "
            f"{budget}; raise it to at least {needed}, or lower data.max_length"
        )


def _reference(config: RunConfig, loss: Objective, policy: PreTrainedModel) -> PreTrainedModel | None:
    if not loss.needs.reference:
        return None
    if config.reference.model is None:
        return copy.deepcopy(policy)
    return load_model(config.reference.model)


def _takes_trees(policy: PreTrainedModel, rows: Sequence[Row], loss: Objective, watcher: Watcher) -> bool:
    """Compare the two longest rows as trees with the same as plain rows: a sliding window shows on long ones."""
    sample = sorted(rows, key=lambda row: -len(row.prompt) - sum(len(c.ids) for c in row.completions))[:2]
    trees = grow(Assembly.of(sample, loss).slots)
    if all(len(tree.branches) == 1 for tree in trees):
        return True
    fits, gap = takes_trees(policy, trees)
    if not fits:
        watcher.say(
            f"{type(policy).__name__} gives other log-probs on shared prompts (by up to {gap:.2g} nats): using plain "
            "rows, slower and as exact"
        )
    return fits


def _save(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _peak_memory_bytes() -> dict[str, int]:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def _versions() -> dict[str, str]:
    packages = ("torch", "transformers", "accelerate", "datasets")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}
