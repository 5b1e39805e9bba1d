"""Measuring a cell whose policies are language models."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from prefopt.bench.exact import Measurement
from prefopt.bench.language_model.pairs import read_as
from prefopt.bench.language_model.problem import Problem, load
from prefopt.bench.losses import LossMethod
from prefopt.config import TrainingConfig
from prefopt.data.row import Row
from prefopt.data.trees import grow_rows
from prefopt.engine.logps import LogpSource, Scorer
from prefopt.errors import ConfigError, NonFiniteLossError
from prefopt.evaluation.divergence import kl_along
from prefopt.evaluation.sampling import texts
from prefopt.loss import Loss
from prefopt.method import Budget, Method, Trial
from prefopt.training.trainer import Step, Trainer

if TYPE_CHECKING:
    from prefopt.bench.language_model.task import LanguageModelTask

_METRICS = ("reward", "kl", "forward_kl", "win_rate", "chosen_log_ratio", "rejected_log_ratio")
_NUM_DISPLACED = 128  # training pairs whose displacement is measured, the first ones
_TOKENS_PER_MICROBATCH = TrainingConfig().tokens_per_microbatch


def measure(
    task: LanguageModelTask,
    method: Method,
    trials: Sequence[Trial],
    seeds: Sequence[int],
    settings: Mapping[str, Any],
    budget: Budget,
) -> Measurement:
    """As `LanguageModelTask.measure`, with all knobs in `settings`."""
    losses: list[Loss] | None = None
    if isinstance(method, LossMethod):
        losses = method.losses(trials)
    elif method.name != "reference":
        raise ConfigError(
            f"method {method.name} needs every completion of a prompt, and task {task.name} has a language model: it "
            "takes losses and the reference"
        )
    initial = load(task, settings)
    found, reference_reward = [], []
    for seed in seeds:
        problem = Problem.draw(seed, initial, settings)
        reference_reward.append(float(problem.rewards.mean()))
        if losses is None:
            found.append([[measured(problem, problem.reference)]] * len(trials))
        else:
            found.append([_trained(problem, loss, trial, budget) for loss, trial in zip(losses, trials, strict=True)])
    table = np.array([[[[point[name] for name in _METRICS] for point in trial] for trial in seed] for seed in found])
    return Measurement(
        metrics={name: table[..., index].swapaxes(0, 1) for index, name in enumerate(_METRICS)},
        reference_reward=np.array(reference_reward),
        max_kl=float(settings["max_kl"]),
    )


def measured(problem: Problem, policy: Scorer) -> dict[str, float]:
    """Every metric of a policy; all are NaN where it diverged."""
    reference = problem.reference
    samples = problem.written_by(policy.model)
    rewards = torch.tensor(problem.reward(texts(problem.tokenizer, samples))).view_as(problem.rewards)
    chosen, rejected = _displacements(problem, policy)
    found = {
        "reward": float(rewards.mean()),
        "kl": float(_kl(policy, reference, samples)),
        "forward_kl": float(_kl(reference, policy, problem.samples)),
        "win_rate": float(win_rate(rewards, problem.rewards)),
        "chosen_log_ratio": float(chosen),
        "rejected_log_ratio": float(rejected),
    }
    return found if all(map(math.isfinite, found.values())) else dict.fromkeys(_METRICS, math.nan)


def _trained(problem: Problem, loss: Loss, trial: Trial, budget: Budget) -> list[dict[str, float]]:
    """[K] the metrics of each checkpoint of a run."""
    rows = read_as(problem.pairs, loss)
    training = TrainingConfig(
        batch_size=budget.batch_size or len(rows),
        learning_rate=trial["learning_rate"],
        scheduler="constant",  # every checkpoint is a result, so none may stand on a rate that has come to rest
        max_steps=budget.steps,
        seed=problem.seed,
    )
    policy = copy.deepcopy(problem.reference).requires_grad_(True)
    reference: LogpSource | None = None
    if loss.needs.distribution == "both":
        reference = problem.reference
    elif loss.needs.reference:
        reference = problem.remembered
    found: list[dict[str, float]] = []

    def after_step(step: Step) -> None:
        if step.number in budget.checkpoints:
            found.append(measured(problem, policy))

    trainer = Trainer(policy, reference, loss, rows, training)
    try:
        trainer.run(after_step)
    except NonFiniteLossError:
        pass  # the policies before it count, those after it are not there
    diverged = dict.fromkeys(_METRICS, math.nan)
    return found + [diverged] * (len(budget.checkpoints) - len(found))


def _kl(policy: Scorer, other: Scorer, samples: Sequence[Row]) -> Tensor:
    return kl_along(policy, other, samples, tokens_per_microbatch=_TOKENS_PER_MICROBATCH).mean()


def win_rate(rewards: Tensor, others: Tensor) -> Tensor:
    """The chance that a sample of one policy has a higher reward than one of another to the same prompt; ties: a half.

    The i-th samples of both were drawn with the same random numbers, so they are not compared.

    Args:
        rewards: [P, M].
        others: [P, M].
    """
    wins = ((rewards[:, :, None] - others[:, None, :]).sign() + 1) / 2
    apart = ~torch.eye(rewards.shape[1], dtype=torch.bool)
    return wins[:, apart].mean()


def _displacements(problem: Problem, policy: Scorer) -> tuple[Tensor, Tensor]:
    """The mean log-ratio of chosen and of rejected completions of the training pairs, nats."""
    trees = grow_rows(problem.pairs[:_NUM_DISPLACED])
    own = policy.score(trees, tokens_per_microbatch=_TOKENS_PER_MICROBATCH)
    reference = problem.remembered.score(trees, tokens_per_microbatch=_TOKENS_PER_MICROBATCH)
    chosen, rejected = (own.sums - reference.sums).view(-1, 2).mean(0)
    return chosen, rejected
