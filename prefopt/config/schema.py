"""The JSON schema of a config, for editors."""

from __future__ import annotations

from typing import Any

from prefopt.config.run import RunConfig


def json_schema() -> dict[str, Any]:
    """The JSON schema of the YAML file, for editors: short forms such as `loss: dpo` included."""
    schema = RunConfig.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    loss = {"$ref": "#/$defs/LossConfig"}
    properties["loss"]["anyOf"] = [
        {"type": "string"},
        loss,
        {"type": "array", "items": {"anyOf": [{"type": "string"}, loss]}, "minItems": 1},
    ]
    for key in ("type", "items", "minItems"):
        properties["loss"].pop(key, None)
    model = {"$ref": "#/$defs/ModelConfig"}
    description = properties["model"].get("description", "")
    properties["model"] = {"anyOf": [{"type": "string"}, model], "description": description}
    trackers = definitions["TrackingConfig"]["properties"]["trackers"]
    tracking = properties["tracking"]
    tracking["anyOf"] = [trackers["items"], trackers, *tracking["anyOf"]]
    properties["plugins"]["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/PluginConfig"}]}
    reference = definitions["ReferenceConfig"]["properties"]["model"]
    reference["anyOf"] = [{"type": "string"}, *reference["anyOf"]]
    schema["title"] = "prefopt run"
    return schema
