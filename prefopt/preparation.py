"""The rows of a run, loaded and checked against the loss and the settings before any model is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from prefopt.config import RunConfig
from prefopt.data.held_out import hold_out
from prefopt.data.load import RowStream, load_rows
from prefopt.data.mismatch import add_mismatched
from prefopt.data.report import DataReport
from prefopt.data.row import Row
from prefopt.data.sources import Source, num_rows, row_kind, source_name
from prefopt.data.trees import largest_sequence
from prefopt.engine.adapters import Adapter
from prefopt.engine.assembly import Assembly, reading
from prefopt.errors import ConfigError, DataError
from prefopt.weighted import Objective

_NUM_TRIED = 1024  # rows whose scores a loss is shown at a time


@dataclass
class Prepared:
    """The rows of a run, ready for the engine.

    Attributes:
        train, evaluation: the rows; `evaluation` is empty where the config names none.
        reports: what became of the rows of each source.
        notes: what else the user should know, a sentence each.
    """

    train: list[Row]
    evaluation: list[Row]
    reports: dict[str, DataReport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_needs(config: RunConfig, loss: Objective, train: Source) -> None:
    """What can be told before a tokenizer loads: the kind of the rows, and whether there is a reference.

    Args:
        config: the run's settings.
        loss: the loss they name.
        train: the rows to train on.

    Raises:
        ConfigError: the settings withhold what the loss needs, or peft knows no such adapter.
        DataError: a source cannot be read, or holds rows the loss does not accept.
    """
    if config.model.adapter is not None:
        Adapter(config.model.adapter)
    if loss.needs.reference and config.reference.mode == "none":
        raise ConfigError(
            f"loss {loss.name} needs reference log-probs, but reference.mode is 'none'; use 'live' or 'cached'"
        )
    if loss.needs.distribution == "both" and config.reference.mode == "cached":
        raise ConfigError(
            f"loss {loss.name} needs the reference's next-token distributions, which no store holds; "
            "set reference.mode to 'live'"
        )
    _check_served(loss)
    sources: list[Source] = [train]
    if isinstance(config.data.evaluation, str):
        sources.append(config.data.evaluation)
    for source in sources:
        kind = row_kind(source)
        try:
            reading(kind, loss)
        except DataError as error:
            raise DataError(f"{source_name(source)}: {error}") from None


@dataclass
class Stream:
    """Every row of a run, to be read once.

    Attributes:
        rows: one at a time, unless the loss needs mismatched completions, which are found among all rows.
        total: how many there are, bad ones included, where that is known.
        reports: what became of the rows of each source, as soon as all of them are read.
        notes: what else the user should know, a sentence each.
    """

    rows: Iterator[Row]
    total: int | None
    reports: dict[str, DataReport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stream(config: RunConfig, loss: Objective, tokenizer: PreTrainedTokenizerBase, train: Source) -> Stream:
    """Every row that `prepare` gives, with its arguments and errors, for a pass that needs each once.

    What `prepare` checks of all rows together (both labels, scores, leaks) is left to the run that trains on them.
    """
    if loss.needs.mismatched:
        data = prepare(config, loss, tokenizer, train)
        rows = [*data.train, *data.evaluation]
        return Stream(iter(rows), len(rows), data.reports, data.notes)
    settings = config.data
    sources: dict[str, Source] = {"train": train}
    if isinstance(settings.evaluation, str):
        sources["evaluation"] = settings.evaluation
    reports: dict[str, DataReport] = {}

    def read() -> Iterator[Row]:
        for part, source in sources.items():
            rows = RowStream(source, tokenizer, max_length=settings.max_length, on_bad_row=settings.on_bad_row)
            for row in rows:
                _check_budget([row], config)
                yield row
            reports[part] = rows.report()

    counts = [num_rows(source) for source in sources.values()]
    return Stream(read(), None if None in counts else sum(filter(None, counts)), reports)


def _check_served(loss: Objective) -> None:
    """Refuse a need that no batch of this version can meet."""
    needs, rows = loss.needs, set(loss.needs.rows)
    missing = {
        "reference log-probs of demonstrations": needs.reference and rows == {"demonstrations"},
        "scores of labelled rows or demonstrations": needs.scores and not rows & {"pairs", "rankings"},
        "mismatched completions of rows without labels": needs.mismatched and "labels" not in rows,
        "tokens of mismatched completions": needs.mismatched and (needs.tokens or needs.distribution is not None),
    }
    for need, unmet in missing.items():
        if unmet:
            raise ConfigError(f"loss {loss.name} needs {need}, which this version does not provide")


def prepare(config: RunConfig, loss: Objective, tokenizer: PreTrainedTokenizerBase, train: Source) -> Prepared:
    """Load the rows, set held-out ones aside, find mismatched completions, and check what the engine relies on.

    Args:
        config: the run's settings.
        loss: the loss they name.
        tokenizer: the policy's.
        train: the rows to train on.

    Raises:
        ConfigError: a row does not fit the token budget.
        DataError: a source or a row cannot be used with this loss.
    """
    data, settings = Prepared([], []), config.data

    def load(source: Source) -> tuple[list[Row], DataReport]:
        return load_rows(source, tokenizer, max_length=settings.max_length, on_bad_row=settings.on_bad_row)

    data.train, data.reports["train"] = load(train)
    if isinstance(settings.evaluation, int):
        data.train, data.evaluation = hold_out(data.train, settings.evaluation)
        data.notes.append(f"{len(data.evaluation)} rows of {source_name(train)} are held out for evaluation")
    elif settings.evaluation is not None:
        data.evaluation, data.reports["evaluation"] = load(settings.evaluation)

    if loss.needs.mismatched:
        data.train = _with_mismatched("training", data.train, config, data.notes)
        data.evaluation = _with_mismatched("held-out", data.evaluation, config, data.notes)
    _check_labels(source_name(train), data.train, loss)
    for rows in filter(None, (data.train, data.evaluation)):
        _check_scores(rows, loss)
        _check_budget(rows, config)
    data.notes += _leaks(data)
    return data


def _leaks(data: Prepared) -> list[str]:
    """What the training rows give away of the held-out ones; an empty prompt (one token) gives nothing away."""
    notes = []
    trained = {(row.prompt, own.ids) for row in data.train for own in row.completions}
    rows = sum(all((row.prompt, own.ids) in trained for own in row.completions) for row in data.evaluation)
    if rows:
        notes.append(f"{rows} of {len(data.evaluation)} held-out rows also stand in the training rows")
    prompts = {row.prompt for row in data.evaluation if len(row.prompt) > 1}
    shared = len(prompts & {row.prompt for row in data.train})
    if shared:
        notes.append(f"{shared} of {len(prompts)} held-out prompts also stand in the training rows")
    return notes


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
    """Scores are there, and the loss can read them: it is tried on every row before any model is."""
    if not (loss.needs.scores or rows[0].kind == "rankings"):
        return
    for row in rows:
        if loss.needs.scores and any(completion.score is None for completion in row.completions):
            raise DataError(f"{row.name}: loss {loss.name} needs a score for every completion, and one has none")
    for start in range(0, len(rows), _NUM_TRIED):
        some = rows[start : start + _NUM_TRIED]
        if _refusal(some, loss):
            name, reason = next((row.name, reason) for row in some if (reason := _refusal([row], loss)))
            raise DataError(f"{name}: {reason}")


def _refusal(rows: Sequence[Row], loss: Objective) -> str:
    """Why the loss refuses these rows, whatever the models say of them; empty if it does not."""
    assembly = Assembly.of(rows, loss)
    if not assembly.owners:  # equal scores make no pair
        return ""
    try:
        loss(assembly.stand_in(loss))
    except ValueError as error:
        return str(error)
    return ""


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
