"""The reference model, loaded when the first row asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from prefopt.config import ModelConfig
from prefopt.data.row import Row
from prefopt.data.trees import largest_sequence
from prefopt.engine.loading import load_model
from prefopt.engine.logps import Scorer
from prefopt.engine.proven import proven


class ReferenceModel:
    """Gives the reference as it may be used on given rows; proved again whenever a longer row comes."""

    def __init__(
        self, settings: ModelConfig, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None], *, seed: int = 0
    ) -> None:
        """Load nothing yet.

        Args:
            settings: which model.
            tokenizer: the policy's.
            say: is told what the model does not take.
            seed: of a new adapter's weights.
        """
        self._settings = settings
        self._tokenizer = tokenizer
        self._say = say
        self._seed = seed
        self._scorer: Scorer | None = None
        self._proven_length = 0

    @property
    def loaded(self) -> bool:
        """Whether any row has asked for it."""
        return self._scorer is not None

    def __call__(self, rows: Sequence[Row]) -> Scorer:
        """The model, for these rows.

        Raises:
            ModelError: it cannot be loaded, or not be run on them.
        """
        longest, _ = largest_sequence(rows)
        if self._scorer is None or longest > self._proven_length:
            model = load_model(self._settings, seed=self._seed) if self._scorer is None else self._scorer.model
            self._scorer, notes = proven(model, self._settings.name, self._tokenizer, rows)
            if not self._proven_length:
                for note in notes:
                    self._say(note)
            self._proven_length = longest
        return self._scorer
