"""A task on a real language model, with a reward that is known by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from prefopt.errors import ConfigError
from prefopt.task import Knob, Task

if TYPE_CHECKING:
    from prefopt.bench.exact import Measurement
    from prefopt.bench.language_model.problem import Problem
    from prefopt.evaluation.text_rewards import Reward
    from prefopt.method import Budget, Method, Trial

# Every command imports the tasks to know their names, so transformers is imported where a model is first needed.


class LanguageModelTask(Task):
    """A language model continues prompts, a reward compares the continuations, and the model learns from the pairs.

    A subclass sets `name`, and may bring prompts of its own or judge by another reward. The initial model is the
    reference, writes the completions and is where each method begins.

    Attributes:
        prompt_sets: name -> prompts that the knob `prompts` can name instead of a source of rows.
    """

    knobs: ClassVar[Mapping[str, Knob]] = MappingProxyType(
        {
            "model": Knob("models/SmolLM2-135M-Instruct", "the model to train: a folder or a Hub id"),
            "reward": Knob("vader", "vader, or a sequence classifier with a label POSITIVE: a folder or a Hub id"),
            "prompts": Knob("rows.jsonl", "a set of prompts by name, or rows with a column prompt or text"),
            "num_prompts": Knob(64, "prompts whose continuations are compared", ge=1),
            "num_test_prompts": Knob(32, "other prompts, whose continuations are measured", ge=1),
            "num_samples": Knob(4, "continuations of each prompt", ge=2),
            "max_new_tokens": Knob(20, "tokens after which a continuation is cut", ge=1),
            "noise": Knob(0.0, "share of pairs in which the worse is called the better", ge=0, le=0.5),
            "max_kl": Knob(5.0, "KL up to which frontiers are compared, nats a completion", gt=0),
            "lowest_learning_rate": Knob(1e-5, "of AdamW, where trials begin", gt=0),
            "highest_learning_rate": Knob(1e-3, "of AdamW, where trials end", gt=0),
        }
    )
    prompt_sets: ClassVar[Mapping[str, Sequence[str]]] = MappingProxyType({})

    @classmethod
    def settings(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """As `Task.settings`; the range of learning rates is one."""
        found = super().settings(given)
        low, high = found["lowest_learning_rate"], found["highest_learning_rate"]
        if low > high:
            raise ConfigError(
                f"task {cls.name}: lowest_learning_rate = {low:g} is above highest_learning_rate = {high:g}; "
                "trials draw between the two"
            )
        return found

    @classmethod
    def learning_rates(cls, settings: Mapping[str, Any]) -> tuple[float, float]:
        """The knobs' range: a table's rates would ruin a language model, and large models need smaller ones."""
        return settings["lowest_learning_rate"], settings["highest_learning_rate"]

    def reward(self, settings: Mapping[str, Any]) -> Reward:
        """What judges texts: a function from texts, prompts included, to numbers, the higher the better.

        Raises:
            ConfigError: the reward's package is not installed.
            ModelError: there is no such classifier.
        """
        from prefopt.bench.language_model.rewards import named

        return named(settings["reward"])

    def build(self, seed: int, **knobs: Any) -> Problem:
        """The problem of that seed: the initial model, pairs of its own completions, and prompts to be measured on."""
        from prefopt.bench.language_model.problem import Problem, load

        settings = self.settings(knobs)
        return Problem.draw(seed, load(self, settings), settings)

    def measure(
        self, method: Method, trials: Sequence[Trial], seeds: Sequence[int], knobs: Mapping[str, Any], budget: Budget
    ) -> Measurement:
        """Train the method in every trial on every seed, and measure what the models write.

        Args:
            method: a loss, or the reference.
            trials: [T] a value for every name in the method's `tune`.
            seeds: [S].
            knobs: those that differ from their defaults.
            budget: what may be spent.

        Returns:
            Metrics [T, S, K] over the test prompts. `kl` and `forward_kl`, nats a completion, are estimates: means over
            sampled completions of the exact KL of every next-token distribution along them. `reward` is the mean
            reward of what the policy writes. `win_rate` is the chance that it beats what the reference writes to the
            same prompt, a tie counting one half. `chosen_log_ratio` and `rejected_log_ratio` are means over training
            pairs. A model that diverged has NaN from there on.

        Raises:
            ConfigError: the method knows no language models.
            DataError: the loss cannot read pairs, or the reward finds none.
            ModelError: the model or the reward's cannot be loaded.
        """
        from prefopt.bench.language_model.cell import measure

        return measure(self, method, trials, seeds, self.settings(knobs), budget)
