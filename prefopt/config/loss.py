"""The section `loss`."""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic import Field

from prefopt.section import Section


class LossConfig(Section):
    """One part of the objective. Keys beyond `name` and `weight` are the loss's own hyper-parameters."""

    model_config = pydantic.ConfigDict(extra="allow")

    name: str
    """Name of a registered loss: `prefopt losses` lists them."""
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Weight of this part in a list of losses."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """What the loss itself is built from."""
        return dict(self.__pydantic_extra__ or {})
