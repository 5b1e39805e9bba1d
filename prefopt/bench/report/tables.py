"""The tables of the report, once: the page, the Markdown and the terminal show these same texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from prefopt.bench.report import wording
from prefopt.bench.results import Board, Estimate, Results, Row, Score, Setting


@dataclass(frozen=True)
class Column:
    """A column: its head, and a sentence on what it holds."""

    key: str
    title: str
    explanation: str


@dataclass(frozen=True)
class Field:
    """One value: what is shown, and what it sorts by (None: last)."""

    text: str
    sort: float | str | None


@dataclass(frozen=True)
class Line:
    """One method.

    Attributes:
        kind: best, tied, behind or bound.
        partial: it did not run on every setting and seed of the table.
        area: what its interval is drawn from.
        fields: column's key -> value.
        cells: ids of the cells that its numbers come from.
    """

    method: str
    kind: str
    partial: bool
    area: Estimate
    fields: dict[str, Field]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A board as columns and lines, contenders first, then the bounds."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    verdict: str
    power: str

    @property
    def contenders(self) -> tuple[Line, ...]:
        """The methods that are compared."""
        return tuple(line for line in self.lines if line.kind != "bound")

    @property
    def bounds(self) -> tuple[Line, ...]:
        """The methods that read the true reward."""
        return tuple(line for line in self.lines if line.kind == "bound")

    @property
    def reach(self) -> tuple[float, float]:
        """The axis on which all its intervals can be drawn: it holds 0, and 1 where there is an optimum."""
        ends = [end for line in self.lines for end in (line.area.interval or (line.area.mean,))]
        top = 1.0 if _RATIO in self.columns else 0.0
        return min([0.0, *ends]), max([top, *ends]) or 1.0


def leaderboard(results: Results) -> Table | None:
    """Over all settings whose optimum is known."""
    return None if results.leaderboard is None else _table(results, results.leaderboard)


def of_setting(results: Results, setting: Setting) -> Table:
    """One setting of a task."""
    return _table(results, results.boards[setting])


_METHOD = Column("method", "method", "The name it is registered under.")
_RATIO = Column(
    "area", "area ratio", "Area under the reward-KL frontier over the optimum's; mean over seeds and tasks."
)
_GAIN = Column("area", "mean gain", "Mean over the KL range of the frontier's reward above the reference's.")
_BEST = Column(
    "best", "against the best", "Mean paired difference to the best contender, and p after Holm's correction."
)
_RANK = Column("rank", "rank", "Average rank among the contenders over tasks and seeds; 1 is best.")
_BLOCKS = Column("blocks", "tasks run", "Task settings it ran on, of those in this table.")
_TRIAL = Column("trial", "best trial", "Settings of the selected point with the highest validation reward.")


def _metric(name: str) -> Callable[[Score], float | None]:
    return lambda score: score.at_best[name].mean if name in score.at_best else None


_AT_BEST = "at the selected point with the highest validation reward"
# Each a value of a score; over several settings the table shows its plain mean.
_VALUES: tuple[tuple[Column, Callable[[Score], float | None], Callable[[float | None], str]], ...] = (
    (
        Column(
            "gap", "gap at equal KL", "What is missing to the optimum at half the KL range, as a share of its gain."
        ),
        lambda score: score.gap_share.mean if score.gap_share else None,
        wording.percent,
    ),
    (
        Column(
            "sensitivity", "trials near best", "Share of the trials whose own area reaches 95 % of the best trial's."
        ),
        lambda score: score.sensitivity,
        wording.percent,
    ),
    (
        Column(
            "chosen",
            "displacement",
            f"Mean log-ratio of the chosen completions, nats, {_AT_BEST}; below 0: pushed down.",
        ),
        _metric("chosen_log_ratio"),
        lambda value: wording.signed(value, 2),
    ),
    (
        Column("win_rate", "win rate", f"Chance to beat the reference's completion, {_AT_BEST}."),
        _metric("win_rate"),
        wording.percent,
    ),
    (
        Column(
            "exploitability",
            "exploitability",
            f"By how much the best reply wins beyond one half, {_AT_BEST}; 0 to 0.5.",
        ),
        _metric("exploitability"),
        wording.number,
    ),
)

_OF_THE_LEADERBOARD = {"gap", "sensitivity", "chosen"}  # the others are for tasks that are judged by them


def _table(results: Results, board: Board) -> Table:
    alone = len(board.settings) == 1
    scores = {
        row.method: [
            results.scores[key] for setting in board.settings if (key := (setting, row.method)) in results.scores
        ]
        for row in board.rows
    }
    values = [
        (column, value, text)
        for column, value, text in _VALUES
        if (alone or column.key in _OF_THE_LEADERBOARD)
        and any(value(score) is not None for found in scores.values() for score in found)
    ]
    area = _RATIO if all(setting.has_optimum for setting in board.settings) else _GAIN
    columns = (_METHOD, area, _BEST, _RANK, *(column for column, _, _ in values), _TRIAL if alone else _BLOCKS)
    lines = []
    for row in board.rows:
        fields = _fields(row, board)
        for column, value, text in values:
            found = [known for score in scores[row.method] if (known := value(score)) is not None]
            mean = fmean(found) if found else None
            fields[column.key] = Field(text(mean), mean)
        fields["trial" if alone else "blocks"] = _trial(scores[row.method]) if alone else _blocks(row, board)
        partial = not row.complete
        lines.append(Line(row.method, _kind(row, board), partial, row.area, fields, row.cells))
    lines.sort(key=lambda line: line.kind == "bound")
    return Table(columns, tuple(lines), wording.verdict(board), wording.power(board.power))


def _kind(row: Row, board: Board) -> str:
    if row.knows_reward:
        return "bound"
    return "best" if row.method == board.best else "tied" if row.tied else "behind"


def _fields(row: Row, board: Board) -> dict[str, Field]:
    text = f"{wording.number(row.area.mean)} {wording.brackets(row.area)}".rstrip()
    difference = 0.0 if row.method == board.best else row.difference.mean if row.difference else None
    return {
        "method": Field(row.method, row.method),
        "area": Field(text, row.area.mean),
        "best": Field(wording.against_best(row, board), difference),
        "rank": Field(wording.number(row.rank, 1), row.rank),
    }


def _blocks(row: Row, board: Board) -> Field:
    return Field(f"{row.num_settings} of {len(board.settings)}", row.num_settings)


def _trial(scores: Sequence[Score]) -> Field:
    best = scores[0].best if scores else None
    text = "" if best is None else f"{wording.hyperparameters(best.hyperparameters)} step={best.step}".lstrip()
    return Field(text, text or None)
