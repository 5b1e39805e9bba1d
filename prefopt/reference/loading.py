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
from prefopt.errors import ModelError
from prefopt.reference.identity import Identity, identify


class ReferenceModel:
    """Gives the reference as it may be used on given rows; proved again whenever a longer row comes."""

    def __init__(
        self,
        settings: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        say: Callable[[str], None],
        identity: Identity | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            settings: which model.
            tokenizer: the policy's.
            say: is told what the model does not take.
            identity: what it was found to be, held against its files once it is loaded; absent: nobody stores its
                values.
        """
        self._settings = settings
        self._tokenizer = tokenizer
        self._say = say
        self._identity = identity
        self._scorer: Scorer | None = None
        self._proven_length = 0
        self._told: set[str] = set()

    @property
    def loaded(self) -> bool:
        """Whether any row has asked for it."""
        return self._scorer is not None

    def __call__(self, rows: Sequence[Row]) -> Scorer:
        """The model, for these rows.

        Raises:
            ModelError: it cannot be loaded, or not be run on them, or its files have changed.
        """
        longest, _ = largest_sequence(rows)
        if self._scorer is None or longest > self._proven_length:
            model = load_model(self._settings) if self._scorer is None else self._scorer.model
            if self._scorer is None and self._identity is not None:
                check_unchanged(self._settings, self._identity)
            self._scorer, notes = proven(
                model, self._settings.name, self._tokenizer, rows, autocast=self._settings.autocast
            )
            for note in notes:
                # The same note names another gap on other rows.
                if note.partition("(")[0] not in self._told:
                    self._told.add(note.partition("(")[0])
                    self._say(note)
            self._proven_length = longest
        return self._scorer


def check_unchanged(settings: ModelConfig, identity: Identity) -> None:
    """Hold a model just loaded against what its files were before, so that no value is stored as another's.

    Raises:
        ModelError: the files have changed in between.
    """
    if identify(settings) != identity:
        raise ModelError(
            f"the files of model {settings.name!r} changed while it was being loaded, so its log-probs belong to no "
            "reference that can be told; start again when they stand still"
        )
