"""What stored values were made with: kept beside them, to name the cause should they ever disagree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version

import torch

import prefopt
from prefopt.reference.identity import Identity

_PACKAGES = ("torch", "transformers")


def made_by(device: torch.device | str) -> dict[str, str]:
    """Versions and device of this process."""
    kind = torch.device(device).type
    where = torch.cuda.get_device_name() if kind == "cuda" else kind
    versions = {package: version(package) for package in _PACKAGES}
    return {"prefopt": prefopt.__version__, **versions, "device": where}


def origin(identity: Identity, name: str, device: torch.device | str) -> dict[str, str]:
    """What is kept beside the values of a shard: versions, device, and the reference by name and parts."""
    parts = {part: value for part, value in asdict(identity).items() if value is not None}
    return {**made_by(device), "name": name, **parts}


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What was otherwise then, in words; empty where nothing was.

    >>> differing({"torch": "2.6", "device": "cpu"}, {"torch": "2.13", "device": "cpu"})
    'torch 2.6 (now 2.13)'
    """
    changed = [f"{name} {then[name]} (now {value})" for name, value in now.items() if then.get(name, value) != value]
    return ", ".join(changed)
