"""A learning rate far from those that a loss is known to work with."""

from __future__ import annotations

from transformers import AutoConfig

from prefopt.config import ModelConfig, RunConfig
from prefopt.docstrings import rate_in_words, rates_in_words
from prefopt.weighted import Objective, WeightedSum

PUBLISHED_WIDTH = 4096
"""Hidden size of the models that the published learning rates belong to: 7 and 8 billion parameters, most of them."""
ADAPTER_FACTOR = 10
"""How much more an adapter takes than the whole model: Schulman and Thinking Machines Lab, LoRA Without Regret, 2025,
https://thinkingmachines.ai/blog/lora, where the best rate of LoRA was ten times that of full fine-tuning throughout."""
SLACK = 10
"""How far beyond the published range a rate must lie: where the next order of magnitude begins."""
# Steps of the others are measured otherwise: SGD's in gradients, Adafactor's in the size of the weights.
_COMPARABLE = ("adamw", "adamw_8bit", "adamw_4bit", "rmsprop")


def width_of(model: ModelConfig) -> int | None:
    """The model's hidden size, read from its config alone; None where there is none to read.

    What is wrong with the place or the config is told when the model loads.
    """
    source = {} if model.gguf_file is None else {"gguf_file": model.gguf_file}
    try:
        config = AutoConfig.from_pretrained(model.name, revision=model.revision, trust_remote_code=False, **source)
        width = getattr(config.get_text_config(), "hidden_size", None)
    except Exception:  # transformers, the Hub and HTTP raise their own
        return None
    return width if isinstance(width, int) and width > 0 else None


def learning_rate_advice(config: RunConfig, loss: Objective, width: int | None) -> list[str]:
    """A sentence for every part of the loss whose published learning rates lie an order of magnitude off.

    Those of adapters are ten times as high, and those of models narrower than the published ones higher in proportion,
    as the step that changes what a layer puts out falls with its width (Yang et al. 2022, arXiv 2203.03466).

    Args:
        config: the run's settings.
        loss: the loss they name.
        width: the model's hidden size; None: that of the published models.
    """
    training = config.training
    if training.optimizer not in _COMPARABLE:
        return []
    of_adapter = 1 if config.model.adapter is None else ADAPTER_FACTOR
    of_width = max(1.0, PUBLISHED_WIDTH / (width or PUBLISHED_WIDTH))
    parts = [part for _, part in loss.parts] if isinstance(loss, WeightedSum) else [loss]
    told = []
    for part in parts:
        if part.learning_rates is None:
            continue
        low, high = part.learning_rates[0] * of_adapter, part.learning_rates[1] * of_adapter * of_width
        rate = training.learning_rate
        if low / SLACK <= rate <= high * SLACK:
            continue
        fits = rates_in_words((low * of_width, high))
        factors = [f"{of_adapter} times as much for an adapter"] if of_adapter > 1 else []
        if of_width > 1:
            factors.append(f"{of_width:.2g} times as much for a width of {width} in place of {PUBLISHED_WIDTH}")
        scaled = f", with {' and '.join(factors)} {fits}" if factors else ""
        outcome = "expect the policy to lose its language" if rate > high else "expect it to learn slowly"
        told.append(
            f"training.learning_rate = {rate_in_words(rate)}, but loss {part.name} was published with "
            f"{rates_in_words(part.learning_rates)} for whole models of billions of parameters{scaled}; {outcome}"
        )
    return told
