"""The rows of a run, loaded and checked against the loss and the settings before any model is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from prefopt.config import RunConfig
from prefopt.data.cached import open_rows
from prefopt.data.held_out import hold_out
from prefopt.data.load import RowStream
from prefopt.data.mismatch import add_mismatched
from prefopt.data.mixture import Part, TrainSource, names_of, parts_of, shared_out
from prefopt.data.report import DataReport
from prefopt.data.row import Row
from prefopt.data.sources import Source, num_rows, row_kind, source_name
from prefopt.data.streaming import StreamedSource
from prefopt.data.trees import largest_sequence
from prefopt.data.views import Joined
from prefopt.engine.adapters import Adapter
from prefopt.engine.assembly import Assembly, reading
from prefopt.engine.quantization import check_quantization
from prefopt.errors import ConfigError, DataError
from prefopt.training.batches import Batches, ShuffledBatches
from prefopt.training.mixed import MixedBatches
from prefopt.training.streamed import StreamedBatches
from prefopt.weighted import Objective

if TYPE_CHECKING:
    from prefopt.batch import RowKind

_NUM_TRIED = 1024  # rows whose scores a loss is shown at a time


@dataclass
class Prepared:
    """The rows of a run, ready for the engine.

    Attributes:
        batches: the optimiser batches.
        train: the training rows; empty where they are streamed.
        evaluation: the held-out rows; empty where the config names none.
        telling: rows on which a model shows what it takes: the longest, the fullest and the shortest; of a stream, the
            same of its first rows, and one that is as long as any can be.
        reports: what became of the rows of each source, as far as they are read.
        notes: what else the user should know, a sentence each.
        streams: the sources that are read during the run, by name.
    """

    batches: Batches
    train: Sequence[Row]
    evaluation: Sequence[Row]
    telling: list[Row]
    reports: dict[str, DataReport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    streams: dict[str, StreamedSource] = field(default_factory=dict)

    @property
    def rows(self) -> Sequence[Row]:
        """All rows that are known before the run: of a stream, those held out."""
        return Joined([self.train, self.evaluation])

    def conclude(self) -> list[str]:
        """After training: add what became of the rows of streams to `reports` and `notes`.

        Returns:
            The same in lines for the terminal.
        """
        lines = []
        for name, source in self.streams.items():
            self.reports[name], notes = source.report(), source.notes()
            lines += [*self.reports[name].lines(), *notes]
            self.notes += notes
        return lines


def check_needs(config: RunConfig, loss: Objective, train: TrainSource) -> None:
    """What can be told before a tokenizer loads: the kind of the rows, and whether there is a reference.

    Args:
        config: the run's settings.
        loss: the loss they name.
        train: the rows to train on.

    Raises:
        ConfigError: the settings withhold what the loss needs, or peft knows no such adapter.
        DataError: a source cannot be read, holds rows the loss does not accept, or, in a mixture, of another kind than
            the first one's.
    """
    if config.model.adapter is not None:
        Adapter(config.model.adapter)
    for model in filter(None, (config.model, config.reference.model)):
        check_quantization(model)
    if loss.needs.reference and config.reference.mode == "none":
        raise ConfigError(
            f"loss {loss.name} needs reference log-probs, but reference.mode is 'none'; use 'live' or 'cached'"
        )
    if loss.needs.distribution == "both" and config.reference.mode == "cached":
        raise ConfigError(
            f"loss {loss.name} needs the reference's next-token distributions, which no store holds; "
            "set reference.mode to 'live'"
        )
    if config.data.streaming and config.training.max_steps is None:
        raise ConfigError(
            "data.streaming needs training.max_steps: how many rows a stream has is not known, so neither is how many "
            "steps an epoch takes"
        )
    _check_served(loss)
    parts = parts_of(train)
    first: Part | None = None
    for part in parts:
        kind = row_kind(part.source, streaming=config.data.streaming)
        _check_read(part.source, kind, loss)
        first = first or part
        if part is not first and kind != (expected := row_kind(first.source, streaming=config.data.streaming)):
            raise DataError(
                f"{source_name(part.source)} holds {kind}, while {source_name(first.source)}, the first source of the "
                f"mixture, holds {expected}; mix sources of one kind"
            )
    if isinstance(config.data.evaluation, str):
        _check_read(config.data.evaluation, row_kind(config.data.evaluation), loss)


def _check_read(source: Source, kind: RowKind, loss: Objective) -> None:
    try:
        reading(kind, loss)
    except DataError as error:
        raise DataError(f"{source_name(source)}: {error}") from None


@dataclass
class Stream:
    """Every row of a run, to be read once.

    Attributes:
        rows: one at a time.
        total: how many there are, bad ones included, where that is known.
        reports: what became of the rows of each source, as soon as all of them are read.
        notes: what else the user should know, a sentence each.
    """

    rows: Iterator[Row]
    total: int | None
    reports: dict[str, DataReport] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def stream(config: RunConfig, loss: Objective, tokenizer: PreTrainedTokenizerBase, train: TrainSource) -> Stream:
    """Every row that `prepare` gives, with its arguments and errors, for a pass that needs each once.

    What `prepare` checks of all rows together (both labels, scores, leaks) is left to the run that trains on them. With
    `data.streaming` the rows are those that the run's steps will take.
    """
    settings = config.data
    if settings.streaming or loss.needs.mismatched:
        data = prepare(config, loss, tokenizer, train)
        total = None if settings.streaming else len(data.rows)
        found = Stream(iter(()), total, data.reports, data.notes)
        found.rows = _known_then_streamed(data)
        return found
    sources: dict[str, Source] = {part.name: part.source for part in parts_of(train)}
    if isinstance(settings.evaluation, str):
        sources["evaluation"] = settings.evaluation
    reports: dict[str, DataReport] = {}

    def read() -> Iterator[Row]:
        for name, source in sources.items():
            rows = RowStream(
                source,
                tokenizer,
                max_length=settings.max_length,
                on_bad_row=settings.on_bad_row,
                num_proc=settings.num_proc,
            )
            for row in rows:
                _check_budget([row], config)
                yield row
            reports[name] = rows.report()

    counts = [num_rows(source) for source in sources.values()]
    return Stream(read(), None if None in counts else sum(filter(None, counts)), reports)


def _known_then_streamed(data: Prepared) -> Iterator[Row]:
    yield from data.rows
    if data.streams:
        for batch in data.batches.after(0):
            yield from batch
        data.conclude()


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


def prepare(
    config: RunConfig,
    loss: Objective,
    tokenizer: PreTrainedTokenizerBase,
    train: TrainSource,
    *,
    listing: Path | None = None,
    contrast: bool = True,
) -> Prepared:
    """Load the rows, set held-out ones aside, find mismatched completions, and check what the engine relies on.

    Rows are kept on disk (`data.cache_dir`), so memory does not grow with them. With `data.streaming` only the first
    rows are read.

    Args:
        config: the run's settings.
        loss: the loss they name.
        tokenizer: the policy's.
        train: the rows to train on.
        listing: a JSONL file for the rows of a stream that are dropped, truncated or shifted, written during the run.
        contrast: whether rows of one label only are refused; rows that are measured and not trained on may be alike.

    Raises:
        ConfigError: a row does not fit the token budget.
        DataError: a source or a row cannot be used with this loss.
    """
    if config.data.streaming:
        data = _streamed(config, loss, tokenizer, parts_of(train), listing)
    else:
        data = _known(config, loss, tokenizer, parts_of(train), contrast)
    for rows in filter(None, (data.train, data.evaluation)):
        _check_scores(rows, loss)
    return data


def _known(
    config: RunConfig, loss: Objective, tokenizer: PreTrainedTokenizerBase, parts: Sequence[Part], contrast: bool
) -> Prepared:
    settings, num_held_out = config.data, config.data.evaluation
    reports: dict[str, DataReport] = {}
    notes: list[str] = []
    trained: list[Sequence[Row]] = []
    evaluation: list[Row] = []
    shares = [part.share for part in parts]
    asides = shared_out(num_held_out, shares) if isinstance(num_held_out, int) else [0] * len(parts)
    for part, aside in zip(parts, asides, strict=True):
        rows, reports[part.name] = _opened(part.source, config, tokenizer)
        kept: Sequence[Row] = rows
        held_out: Sequence[Row] = []
        if aside:
            kept, held_out = hold_out(rows, aside)
            notes.append(f"{len(held_out)} rows of {source_name(part.source)} are held out for evaluation")
        name = f" of {source_name(part.source)}" if len(parts) > 1 else ""
        trained.append(_with_mismatched(f"training rows{name}", kept, loss, config, notes))
        evaluation += _with_mismatched(f"held-out rows{name}", held_out, loss, config, notes)
    held: Sequence[Row] = evaluation
    if isinstance(settings.evaluation, str):
        held, notes_of = _held_out_source(settings.evaluation, config, loss, tokenizer, reports)
        notes += notes_of
    train = trained[0] if len(trained) == 1 else Joined(trained)
    batches: Batches = ShuffledBatches(train, config.training)
    if len(parts) > 1:
        batches = MixedBatches(trained, shares, settings.mixture_ends, config.training)
    telling, leaks = _looked_over(train, held, names_of(parts), config, loss, contrast)
    return Prepared(batches, train, held, telling, reports, notes + leaks)


def _streamed(
    config: RunConfig,
    loss: Objective,
    tokenizer: PreTrainedTokenizerBase,
    parts: Sequence[Part],
    listing: Path | None,
) -> Prepared:
    settings = config.data
    shares = [part.share for part in parts]
    count = settings.evaluation if isinstance(settings.evaluation, int) else 0
    streams = {}
    for part, aside in zip(parts, shared_out(count, shares), strict=True):
        own_listing = listing
        if listing is not None and len(parts) > 1:
            own_listing = listing.with_suffix(part.name.removeprefix("train") + listing.suffix)
        streams[part.name] = StreamedSource(
            part.source,
            tokenizer,
            max_length=settings.max_length,
            on_bad_row=settings.on_bad_row,
            num_held_out=aside,
            mismatched=loss.needs.mismatched,
            check=lambda row: _check_budget([row], config),
            listing=own_listing,
        )
    reports: dict[str, DataReport] = {}
    notes: list[str] = []
    evaluation: list[Row] = []
    for part, source in zip(parts, streams.values(), strict=True):
        name = source_name(part.source)
        if source.held_out:
            notes.append(f"the first {len(source.held_out)} rows of {name} are held out for evaluation")
        evaluation += _with_mismatched(f"held-out rows of {name}", source.held_out, loss, config, notes)
    held: Sequence[Row] = evaluation
    if isinstance(settings.evaluation, str):
        held, notes_of = _held_out_source(settings.evaluation, config, loss, tokenizer, reports)
        notes += notes_of
    batches = StreamedBatches(
        list(streams.values()),
        shares,
        settings.mixture_ends,
        config.training,
        shuffle_buffer=settings.shuffle_buffer,
        check=lambda rows: _check_scores(rows, loss),
    )
    sample = [row for source in streams.values() for row in source.sample]
    _check_scores(sample, loss)
    telling = _telling([*sample, *held])
    longest = _stretched(telling[0], config)
    return Prepared(batches, [], held, [longest, *telling], reports, notes, streams)


def _opened(source: Source, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[Sequence[Row], DataReport]:
    settings = config.data
    return open_rows(
        source,
        tokenizer,
        max_length=settings.max_length,
        on_bad_row=settings.on_bad_row,
        num_proc=settings.num_proc,
        cache_dir=settings.cache_dir,
    )


def _held_out_source(
    source: Source,
    config: RunConfig,
    loss: Objective,
    tokenizer: PreTrainedTokenizerBase,
    reports: dict[str, DataReport],
) -> tuple[Sequence[Row], list[str]]:
    """The held-out rows that the config names by place, and what there is to say of them."""
    notes: list[str] = []
    rows, reports["evaluation"] = _opened(source, config, tokenizer)
    return _with_mismatched("held-out rows", rows, loss, config, notes), notes


def _looked_over(
    train: Sequence[Row], evaluation: Sequence[Row], name: str, config: RunConfig, loss: Objective, contrast: bool
) -> tuple[list[Row], list[str]]:
    """One pass over all rows: their telling ones, and what the training rows give away of the held-out ones.

    Raises:
        ConfigError: a row does not fit the token budget.
        DataError: all training rows have one label.
    """
    labels: set[bool | None] = set()
    leaks = _Leaks(evaluation)

    def passing() -> Iterator[Row]:
        for row in train:
            labels.add(row.desirable)
            leaks.look_at(row)
            yield row
        yield from evaluation

    telling = _telling(passing())
    if contrast and len(labels) == 1 and None not in labels:
        which = "desirable (label true)" if True in labels else "undesirable (label false)"
        raise DataError(
            f"{name}: all {len(train)} rows are {which}; loss {loss.name} contrasts desirable with undesirable "
            "completions and needs both"
        )
    _check_budget(telling, config)
    return telling, leaks.notes()


def _telling(rows: Iterable[Row]) -> list[Row]:
    """The row of the longest sequence, the fullest and the shortest one, in one pass."""
    found: list[tuple[int, Row]] = []
    for row in rows:
        size = len(row.prompt) + sum(len(own.ids) for own in row.completions)
        longest = largest_sequence([row])[0]
        if not found:
            found = [(longest, row), (size, row), (-size, row)]
        for place, value in enumerate((longest, size, -size)):
            if value > found[place][0]:
                found[place] = value, row
    return [row for _, row in found]


def _stretched(row: Row, config: RunConfig) -> Row:
    """The row with a prompt so long that none can need more: better to know now whether a model takes it."""
    longest = max(len(own.ids) for own in row.completions)
    room = min(config.data.max_length, config.training.tokens_per_microbatch + 1) - longest
    if room <= len(row.prompt):
        return row
    repeated = row.prompt * (room // len(row.prompt) + 1)
    return replace(row, prompt=repeated[:room], mismatched=())


class _Leaks:
    """What the training rows give away of the held-out ones; an empty prompt (one token) gives nothing away."""

    def __init__(self, evaluation: Sequence[Row]) -> None:
        self._rows = [{(row.prompt, own.ids) for own in row.completions} for row in evaluation]
        self._prompts = {row.prompt for row in evaluation if len(row.prompt) > 1}
        self._all = set().union(*self._rows)
        self._seen: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
        self._seen_prompts: set[tuple[int, ...]] = set()

    def look_at(self, row: Row) -> None:
        if not self._rows:
            return
        if row.prompt in self._prompts:
            self._seen_prompts.add(row.prompt)
        for own in row.completions:
            if (row.prompt, own.ids) in self._all:
                self._seen.add((row.prompt, own.ids))

    def notes(self) -> list[str]:
        found = []
        count = sum(own <= self._seen for own in self._rows)
        if count:
            found.append(f"{count} of {len(self._rows)} held-out rows also stand in the training rows")
        if self._seen_prompts:
            found.append(
                f"{len(self._seen_prompts)} of {len(self._prompts)} held-out prompts also stand in the training rows"
            )
        return found


def _with_mismatched(
    which: str, rows: Sequence[Row], loss: Objective, config: RunConfig, notes: list[str]
) -> Sequence[Row]:
    if not rows or not loss.needs.mismatched:
        return rows
    found, num_alike = add_mismatched(rows, max_length=config.data.max_length)
    if num_alike:
        notes.append(
            f"{num_alike} {which} found no other prompt: their mismatched completion is the next row's, under the "
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
    remaining = iter(rows)
    while some := list(islice(remaining, _NUM_TRIED)):
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


def _check_budget(rows: Sequence[Row], config: RunConfig) -> None:
    needed, row = largest_sequence(rows)
    budget = config.training.tokens_per_microbatch
    if needed > budget:
        raise ConfigError(
            f"{row.name}: prompt and one completion take {needed} tokens, but training.tokens_per_microbatch is "
            f"{budget}; raise it to at least {needed}, or lower data.max_length"
        )
