"""`prefopt schema`."""

from __future__ import annotations

import json

from prefopt.config import json_schema


def schema() -> None:
    """Print the JSON schema of the config, for editors."""
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
