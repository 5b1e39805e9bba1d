from __future__ import annotations

import json


def test_schema_is_json(prefopt):
    assert json.loads(prefopt("schema").out)["title"] == "prefopt run"
