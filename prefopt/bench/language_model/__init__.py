"""Tasks whose policies are language models: KL and reward are those of what the models write."""

from prefopt.bench.language_model.task import LanguageModelTask

__all__ = ["LanguageModelTask"]
