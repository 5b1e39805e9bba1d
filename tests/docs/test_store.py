"""What docs/store.md says of the files is true."""

from __future__ import annotations

import re
from pathlib import Path

from tests.reference.stores import IDENTITY, MADE_BY, entries, filled

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "store.md").read_text(encoding="utf-8")


def test_any_arrow_reader_opens_a_shard(tmp_path):
    (code,) = re.findall(r"<!-- tested: shard -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    (shard,) = filled(tmp_path, entries(20)).shards
    names = {"path": str(shard.path)}
    exec(code, names)
    assert names["about"]["identity"] == IDENTITY
    assert names["about"]["made_by"] == MADE_BY
    assert names["longest"] == max(len(entry.values) for entry in entries(20))
    assert names["table"].column_names == ["key", "logps", "check"]
    assert names["table"]["key"].to_pylist() == sorted(entry.key for entry in entries(20))
