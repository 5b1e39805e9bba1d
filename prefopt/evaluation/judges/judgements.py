"""`judgements.jsonl`: every comparison with what was said of it, on disk as soon as it was said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefopt.errors import DataError
from prefopt.evaluation.judges.comparison import Comparison, Judge, Judgement

FILE = "judgements.jsonl"


def key_of(judge: Judge, comparison: Comparison) -> str:
    """What a judgement is found by again: a digest of the judge and of all it was shown."""
    content = json.dumps([dict(judge.about), judge.question(comparison)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Judgements:
    """The judgements in a file; those of other judges and earlier models stay in it."""

    def __init__(self, path: Path) -> None:
        """Read what is there. A last line that was cut off while it was written is taken away.

        Args:
            path: need not exist yet.

        Raises:
            DataError: the file cannot be read, or a line holds no judgement.
        """
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        try:
            content = path.read_bytes() if path.exists() else b""
            whole = content.rpartition(b"\n")
            if whole[2]:
                with path.open("r+b") as file:
                    file.truncate(len(whole[0]) + len(whole[1]))
        except OSError as error:
            raise DataError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
        for number, line in enumerate(whole[0].splitlines(), 1):
            try:
                record = json.loads(line)
                if record["verdict"] not in ("policy", "other", "tie", None):
                    raise ValueError(record["verdict"])
                self._known[record["key"]] = record
            except (ValueError, LookupError, TypeError):
                raise DataError(
                    f"{path} line {number} is no judgement; mend it, or move the file away to judge everything again"
                ) from None

    def find(self, key: str) -> Judgement | None:
        """What was said before, if it was."""
        record = self._known.get(key)
        if record is None:
            return None
        rest = {name: value for name, value in record.items() if name in ("scores", "first", "reply")}
        return Judgement(record["verdict"], rest)

    def add(self, key: str, judge: Judge, comparison: Comparison, judgement: Judgement) -> None:
        """Append a judgement, unless the very same one is there.

        Raises:
            DataError: it cannot be written.
        """
        record = {
            "key": key,
            "row": comparison.row,
            "judge": dict(judge.about),
            "verdict": judgement.verdict,
            **judgement.evidence,
            "prompt": comparison.prompt,
            "policy": comparison.policy,
            "other": comparison.other,
            **({} if comparison.truth is None else {"truth": comparison.truth}),
        }
        if self._known.get(key) == record:
            return
        self._known[key] = record
        self._append(record)

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            # Escaped, so that a lone surrogate of a model's making is no reason to stop.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise DataError(f"{str(self._path)!r} cannot be written: {error.strerror or error}") from error
