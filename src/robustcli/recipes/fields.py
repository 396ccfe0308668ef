"""The value types of recipes: norms, radii that may be fractions, strict models that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from robustcli.norms import radius

NormName = Literal["l1", "l2", "linf"]


def _number(value: object) -> object:
    """Accept `2/255` and `1e-3` (which YAML reads as text) where a number is wanted; true and false are none."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    if isinstance(value, str):
        try:
            return radius(value)
        except Exception as error:
            raise ValueError(str(error)) from error
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]


class Strict(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
