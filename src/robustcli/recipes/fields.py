"""The value types of recipes: norms, radii that may be fractions, strict models that refuse unknown keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
BelowOne = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]


class Strict(BaseModel):
    """Frozen; unknown keys are errors; the rest of settings given in part is what they are by default in this place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _the_rest_by_default(cls, data: Any) -> Any:
        """`beta: {end: 0.5}` starts where the method's beta starts, not where a share of any method does."""
        if not isinstance(data, dict):
            return data
        places = {
            name: field.default for name, field in cls.model_fields.items() if field.annotation is type(field.default)
        }
        partly = {
            name: {**default.model_dump(), **data[name]}
            for name, default in places.items()
            if isinstance(default, Strict) and isinstance(data.get(name), dict)
        }
        return {**data, **partly}
