"""Annotators: how the completions of a world come to be compared."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prefopt.errors import DataError
from prefopt.worlds.rows import Rows


def draw_rows(
    generator: np.random.Generator,
    num_rows: int,
    behaviour: Tensor,
    utility: Tensor,
    *,
    num_completions: int = 2,
    flipped: float = 0.0,
) -> Rows:
    """Pairs (or rankings) of distinct completions, ordered by utilities that each carry Gumbel noise of scale 1.

    So a completion i is preferred to j with probability sigmoid(utility_i - utility_j), the model of Bradley and
    Terry, and K completions are ranked by the model of Plackett and Luce. The noisy utilities are the scores, an
    annotator's ratings: they say by how much besides in which order. Prompts are drawn uniformly.

    Args:
        generator: of the draws.
        num_rows: B.
        behaviour: [P, C] log-probs of the policy that writes the completions, nats.
        utility: [P, C] what the annotators go by, nats.
        num_completions: K, >= 2: 2 gives pairs, more rankings.
        flipped: the share of rows that an annotator turns upside down, scores included, 0 to 1.
    """
    prompts = generator.integers(len(behaviour), size=num_rows)
    completions = _distinct(generator, behaviour.numpy()[prompts], num_completions)
    scores = np.take_along_axis(utility.numpy()[prompts], completions, axis=1)
    scores = scores + generator.gumbel(size=scores.shape)
    order = np.argsort(-scores, axis=1)
    completions, scores = np.take_along_axis(completions, order, axis=1), np.take_along_axis(scores, order, axis=1)
    upside_down = generator.random(num_rows) < flipped
    completions[upside_down] = completions[upside_down][:, ::-1]
    return Rows(
        "pairs" if num_completions == 2 else "rankings",
        torch.from_numpy(prompts),
        torch.from_numpy(completions),
        torch.from_numpy(scores),
    )


def judge_pairs(generator: np.random.Generator, num_rows: int, behaviour: Tensor, preference: Tensor) -> Rows:
    """Pairs of distinct completions, judged by any table of preferences; the scores say no more than who won.

    Args:
        generator: of the draws.
        num_rows: B.
        behaviour: [P, C] log-probs of the policy that writes the completions, nats.
        preference: [P, C, C] the chance that the first completion is preferred to the second.
    """
    prompts = generator.integers(len(behaviour), size=num_rows)
    completions = _distinct(generator, behaviour.numpy()[prompts], 2)
    chance = preference.numpy()[prompts, completions[:, 0], completions[:, 1]]
    lost = generator.random(num_rows) >= chance
    completions[lost] = completions[lost][:, ::-1]
    scores = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(num_rows, 2)
    return Rows("pairs", torch.from_numpy(prompts), torch.from_numpy(completions), scores)


def label_rows(
    generator: np.random.Generator, num_rows: int, behaviour: Tensor, utility: Tensor, *, desirable: float
) -> Rows:
    """Single completions with a thumb up or down: up where a utility with logistic noise passes a threshold.

    So a thumb goes up with probability sigmoid(utility - threshold). The threshold is such that `desirable` of the rows
    get one.

    Args:
        generator: of the draws.
        num_rows: B.
        behaviour: [P, C] log-probs of the policy that writes the completions, nats.
        utility: [P, C] what the annotators go by, nats.
        desirable: the share of thumbs up, above 0 and below 1; at least one row has each.
    """
    prompts = generator.integers(len(behaviour), size=num_rows)
    completions = _distinct(generator, behaviour.numpy()[prompts], 1)
    utilities = np.take_along_axis(utility.numpy()[prompts], completions, axis=1)[:, 0]
    order = np.argsort(-(utilities + generator.logistic(size=num_rows)))
    labels = np.zeros(num_rows, dtype=bool)
    labels[order[: min(max(round(desirable * num_rows), 1), num_rows - 1)]] = True
    return Rows("labels", torch.from_numpy(prompts), torch.from_numpy(completions), desirable=torch.from_numpy(labels))


def _distinct(generator: np.random.Generator, logps: np.ndarray, count: int) -> np.ndarray:
    """[B, count] different completions for each row of [B, C] log-probs, drawn without replacement.

    Raises:
        DataError: there are not so many.
    """
    if count > logps.shape[1]:
        raise DataError(
            f"a row compares {count} different completions, and a prompt of this world has {logps.shape[1]}"
        )
    # The largest of log-probs with Gumbel noise are such a draw.
    noisy = logps + generator.gumbel(size=logps.shape)
    return np.argsort(-noisy, axis=1)[:, :count].copy()
