"""The steps of a run, and all that is kept of them as they are taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from prefopt.config import RunConfig
from prefopt.errors import ConfigError, DivergenceError, OutputError
from prefopt.training.best import Best
from prefopt.training.checkpoints import Checkpoints, read_facts, read_snapshot
from prefopt.training.health import Health
from prefopt.training.output import BEST, CHECKPOINTS, METRICS, RUN, MetricsLog, cut_metrics
from prefopt.training.stopping import stopping_between_steps
from prefopt.training.trackers import Trackers
from prefopt.training.trainer import Step, Trainer
from prefopt.watcher import Watcher
from prefopt.weighted import Objective

Save = Callable[[Path], None]


class Keeper:
    """Runs a trainer and keeps metrics, checkpoints and the best model, so that the run can be killed and go on.

    Attributes:
        before: what was found on the held-out rows before the first step.
        resumed_after: the steps after which the run was taken up again.
        seconds_before: what it took until it was, as far as its checkpoints know.
        warnings: what there was to say of the run's health, a sentence each.
    """

    def __init__(
        self,
        config: RunConfig,
        loss: Objective,
        trainer: Trainer,
        trackers: Trackers,
        identity: Mapping[str, str],
        watcher: Watcher,
    ) -> None:
        """Write nothing yet.

        Args:
            config: of the run.
            loss: what it trains with.
            trainer: takes the steps.
            trackers: are told of each.
            identity: what a run must have in common with the one it goes on with: digests by name.
            watcher: is told of progress.
        """
        self._output = Path(config.output_dir)
        self._every = config.evaluation.every_steps
        self._trainer = trainer
        self._trackers = trackers
        self._identity = dict(identity)
        self._config = config
        self._health = Health(loss)
        self._watcher = watcher
        self._checkpoints = Checkpoints(self._output / CHECKPOINTS, config.checkpoints, trainer.ranks)
        self._best = Best(self._output / BEST, config.checkpoints.keep_best, trainer.ranks)
        self._started = time.monotonic()
        self.before: dict[str, Any] = {}
        self.resumed_after: list[int] = []
        self.seconds_before = 0.0
        self.warnings: list[str] = []

    def begin(self, before: dict[str, Any]) -> None:
        """Begin with the first step.

        Args:
            before: what was found on the held-out rows.

        Raises:
            ConfigError: what the best model is told by is not measured.
        """
        self.before = before
        measure = self._config.checkpoints.keep_best
        if measure is not None and measure not in before:
            raise ConfigError(
                f"checkpoints.keep_best = {measure!r}, but the held-out rows hold no pairs to measure it on; set it to "
                "'loss'"
            )

    def go_on(self, checkpoint: Path) -> None:
        """Begin after the last step of a checkpoint.

        Raises:
            OutputError: it cannot be read, or is one of other rows or another model.
        """
        facts = read_facts(checkpoint)
        for part, digest in self._identity.items():
            if facts["identity"][part] != digest:
                raise OutputError(
                    f"checkpoint {str(checkpoint)!r} belongs to another {part} than this run reads: it has changed "
                    "since; put it back, or begin anew with --overwrite"
                )
        step = int(facts["step"])
        if step > self._trainer.num_steps:
            raise OutputError(
                f"checkpoint {str(checkpoint)!r} was kept after step {step}, and the run now ends after step "
                f"{self._trainer.num_steps}; raise training.max_steps or training.epochs"
            )
        self._trainer.restore(read_snapshot(checkpoint, self._trainer.ranks))
        self._health.load_state_dict(facts["health"])
        self.before, self.warnings = facts["before"], facts["warnings"]
        self._best.go_on(step, facts["best"])
        self.resumed_after = [*facts["resumed_after"], step]
        self.seconds_before = facts["seconds"]
        self._watcher.say(f"resumed after step {step} from {checkpoint}")
        for what, then, now in (
            ("process(es)", facts["num_processes"], self._trainer.ranks.count),
            ("thread(s)", facts["threads"], torch.get_num_threads()),
        ):
            if then != now:
                self._watcher.say(f"it ran with {then} {what} and goes on with {now}: the same beyond rounding only")
        if self._trainer.ranks.index == 0:
            (self._output / RUN).unlink(missing_ok=True)
            cut_metrics(self._output / METRICS, step)

    def run(self, evaluate: Callable[[str], dict[str, Any]], save: Save) -> None:
        """Take every step that is left.

        Args:
            evaluate: measures the policy on the held-out rows; called with the name of the moment.
            save: writes the model into a folder, in every process.

        Raises:
            KeyboardInterrupt: the run was told to stop; a checkpoint is kept.
            OutputError: the disk is full.
            DivergenceError: the run has diverged, and the config says to stop then.
            NonFiniteLossError: as `Trainer.run`.
        """
        trainer, first = self._trainer, self._trainer.ranks.index == 0
        with ExitStack() as stack:
            log = stack.enter_context(MetricsLog(self._output / METRICS if first else None))
            stack.enter_context(self._trackers)
            stop = stack.enter_context(stopping_between_steps(trainer.ranks))

            def after_step(step: Step) -> None:
                metrics, last = dict(step.metrics), step.number == trainer.num_steps
                if self._every and step.number % self._every == 0 and not last:
                    metrics["evaluation"] = evaluate(f"step {step.number}")
                    self.offer(step.number, metrics["evaluation"], save)
                log.write(metrics)
                self._trackers.log(metrics, step.number)
                self._watcher.step(metrics)
                self.warnings += (found := self._health.after(metrics))
                for sentence in found:
                    self._watcher.say(sentence)
                stopped = stop.told()
                told = stopped and not last
                if self._checkpoints.due(step.number) or stopped or (last and self._checkpoints.wanted):
                    log.flush()
                    kept = self._checkpoints.keep(trainer.snapshot(), self._facts())
                    if told:
                        self._watcher.say(f"stopped after step {step.number}; go on with --resume from {kept}")
                if told:
                    raise KeyboardInterrupt
                if self._config.training.stop_on_divergence and self._health.diverged:
                    raise DivergenceError(self._health.diverged)

            trainer.run(after_step)

    def offer(self, step: int, found: Mapping[str, Any], save: Save) -> None:
        """Keep the model if it is the best so far."""
        self._best.offer(step, found, save)

    def _facts(self) -> dict[str, Any]:
        return {
            "identity": self._identity,
            "before": self.before,
            "best": self._best.state,
            "health": self._health.state_dict(),
            "warnings": self.warnings,
            "resumed_after": self.resumed_after,
            "seconds": round(self.seconds_before + time.monotonic() - self._started, 2),
            "threads": torch.get_num_threads(),
        }
