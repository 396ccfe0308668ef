"""The l_p norms by name, their dual exponents, and radii as users write them (`0.1`, `2/255`, `1e-3`).

Imports no torch: recipes, results and `--help` use it.
"""

from __future__ import annotations

import math
from fractions import Fraction

from robustcli.errors import UnknownNameError, UsageError

NORMS = ("l1", "l2", "linf")
EXPONENT = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


def exponent(name: str) -> float:
    """The exponent p of a named norm: `l1` -> 1, `l2` -> 2, `linf` -> inf.

    Raises:
        UnknownNameError: for any other name.
    """
    if name not in EXPONENT:
        raise UnknownNameError("norm", name, NORMS)
    return EXPONENT[name]


def norm_name(p: float) -> str:
    """The name of the l_p norm: `linf` for p = inf, else `l` followed by p (`l1`, `l2`, `l1.5`)."""
    return "linf" if math.isinf(p) else f"l{p:g}"


def any_exponent(text: str) -> float:
    """The exponent p of `l1`, `l2`, `linf`, or of a number p >= 1 such as `1.5` (also `inf`).

    Raises:
        UsageError: when the text is neither a named norm nor a number p >= 1.
    """
    if text in EXPONENT:
        return EXPONENT[text]
    try:
        p = float(text.removeprefix("l"))
    except ValueError:
        raise UnknownNameError("norm", text, NORMS, "or a number p >= 1") from None
    if not p >= 1:
        raise UsageError(f"norm p = {text} is not a norm", "use p >= 1")
    return p


def dual(p: float) -> float:
    """The dual exponent q with 1/p + 1/q = 1 (1 <-> inf, 2 <-> 2)."""
    if p == 1:
        return math.inf
    return 1.0 if math.isinf(p) else p / (p - 1)


def radius(value: str | float | int) -> float:
    """A number that may be written as a fraction (`2/255`); finite, sign unchecked.

    Raises:
        UsageError: when it is not a finite number.
    """
    try:
        number = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{value!r} is not a number", "write eps as 0.1, 1e-3 or 2/255") from None
    if not math.isfinite(number):
        raise UsageError(f"{value!r} is not a finite number", "write eps as 0.1, 1e-3 or 2/255")
    return number


def largest_radius(p: float, dimension: int, box: tuple[float, float] | None) -> float:
    """The radius beyond which an l_p ball around a point of the box contains the whole box (inf without a box)."""
    if box is None:
        return math.inf
    width = box[1] - box[0]
    return width if math.isinf(p) else width * dimension ** (1 / p)


def positive_radius(eps: str | float) -> float:
    """A radius that is a finite number above 0.

    Raises:
        UsageError: otherwise.
    """
    value = radius(eps)
    if value <= 0:
        raise UsageError(f"eps = {eps} must be positive")
    return value


def check_eps(eps: str | float, p: float, dimension: int, box: tuple[float, float] | None) -> float:
    """A usable radius: finite, positive, and not larger than the input box.

    Raises:
        UsageError: otherwise.
    """
    value = positive_radius(eps)
    limit = largest_radius(p, dimension, box)
    if value > limit:
        raise UsageError(
            f"eps = {eps} is larger than the input box: every {norm_name(p)} ball of radius {limit:g} covers it",
            "inputs are scaled to the box, so write 8/255 rather than 8",
        )
    return value
