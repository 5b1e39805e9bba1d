"""What the rows of a run make the model compute: tokens, micro-batches, and what sharing prompts saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import torch

from prefopt.config import TrainingConfig
from prefopt.data.row import Row
from prefopt.data.trees import Tree, prune
from prefopt.engine.assembly import Assembly
from prefopt.engine.logps import Scorer, TokenLogps
from prefopt.engine.ranks import Ranks
from prefopt.training.batches import ShuffledBatches
from prefopt.weighted import Objective

_NUM_REPLAYED = 3  # steps whose micro-batches are gone through one by one


def seen_pairs(tree: Tree) -> int:
    """Query and key positions that attention meets in a tree: of the prompt, then of each branch with all it follows.

    >>> from prefopt.data.row import Completion
    >>> own = Completion((5, 6, 7), (True,) * 3)  # its last token is predicted, never read
    >>> seen_pairs(Tree((1, 2), ((0, own), (1, own))))
    20
    """
    prompt = len(tree.prompt)
    read = [len(own.ids) - 1 for _, own in tree.branches if len(own.ids) > 1]
    if len(read) == 1:
        return (prompt + read[0]) ** 2
    return prompt**2 + sum(own * (prompt + own) for own in read)


@dataclass
class Workload:
    """One epoch, or the whole run where that is shorter.

    Attributes:
        num_steps: of the whole run.
        steps: optimiser batches looked at.
        rows: rows in them.
        prompt_tokens, completion_tokens: as the rows hold them, every prompt once a row.
        tokens: computed by one pass, each prompt once a tree.
        plain_tokens: the same with the prompt again for every completion, without padding.
        trained_tokens: computed with gradient; completions that a loss only looks at have none in a second pass.
        looked_tokens: computed without gradient before, by losses that see the whole batch first.
        scored: log-probs taken.
        pairs: positions that attention holds against each other.
        microbatches: how many there are.
        replayed: the micro-batches of the first steps and of the one with the largest.
        largest: the largest of them.
    """

    num_steps: int
    steps: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: int = 0
    plain_tokens: int = 0
    looked_tokens: int = 0
    trained_tokens: int = 0
    scored: int = 0
    pairs: int = 0
    microbatches: int = 0
    replayed: list[list[list[Tree]]] = field(default_factory=list)
    largest: list[Tree] = field(default_factory=list)

    @property
    def repeats(self) -> float:
        """How often the run does what was looked at."""
        return self.num_steps / self.steps


def workload(rows: Sequence[Row], loss: Objective, training: TrainingConfig, scorer: Scorer, ranks: Ranks) -> Workload:
    """Cut every batch of an epoch as the run will.

    Args:
        rows: the training rows.
        loss: says which completions are read.
        training: batch size, token budget, steps and seed.
        scorer: whether trees are packed.
        ranks: the processes that share each batch.
    """
    batches = ShuffledBatches(rows, training)
    found = Workload(batches.num_steps)
    each_epoch = min(batches.num_steps, ceil(len(rows) / training.batch_size))
    fullest, around = (0, 0), []
    for batch in batches.after(0):
        assembly = Assembly.of(batch, loss)
        trees = assembly.trees()
        step = scorer.cut(trees, training.tokens_per_microbatch, ranks)
        size = sum(tree.num_tokens for part in step for tree in part)
        found.tokens += size
        if loss.needs.coupled and len(step) > 1:
            found.looked_tokens += size
            step = scorer.cut(_moved(assembly, trees, loss), training.tokens_per_microbatch, ranks)
        found.steps += 1
        found.rows += len(batch)
        found.prompt_tokens += sum(len(row.prompt) for row in batch)
        found.completion_tokens += sum(len(own.ids) for row in batch for own in row.completions)
        found.microbatches += sum(map(bool, step))
        for part in step:
            size = sum(tree.num_tokens for tree in part)
            pairs = sum(map(seen_pairs, part))
            found.trained_tokens += size
            if (size, pairs) > fullest:
                fullest, found.largest = (size, pairs), part
                around = step
        found.pairs += sum(map(seen_pairs, trees))
        found.plain_tokens += sum(len(tree.prompt) + len(own.ids) - 1 for tree in trees for _, own in tree.branches)
        found.scored += sum(own.num_scored for tree in trees for _, own in tree.branches)
        if len(found.replayed) < _NUM_REPLAYED - 1:
            found.replayed.append(step)
        if found.steps == each_epoch:
            break
    if all(step is not around for step in found.replayed):
        found.replayed.append(around)
    return found


def _moved(assembly: Assembly, trees: Sequence[Tree], loss: Objective) -> list[Tree]:
    """The trees with the completions that the loss has a gradient for, found with log-probs drawn at random."""
    lengths = tuple(own.num_scored for _, own in assembly.slots)
    draw = torch.Generator().manual_seed(0)
    values = -torch.rand(sum(lengths), 4 if loss.needs.reference else 3, generator=draw, dtype=torch.float64)
    logps = TokenLogps(values.mul_(torch.tensor([1, 1, -1, 1][: values.shape[1]])).requires_grad_(), lengths)
    out = loss(assembly.batch(logps, None, loss, loss.initial_state()))
    (slope,) = torch.autograd.grad(out.losses.sum(), logps.values)
    sizes = TokenLogps(slope[:, :3].abs().sum(1), lengths).sums.tolist()
    live = {slot for slot, size in enumerate(sizes) if size}
    return [left for tree in trees if (left := prune(tree, live))]
