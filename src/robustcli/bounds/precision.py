"""Rows in float32, everything else in float64: half the bytes and, on a CPU, kernels that float64 does not have.

What bounds rest on (values at the middle of the ball, lines, intercepts, radii of the ball) is computed in float64.
Only the rows are pulled back in float32: whatever the rounded row, it is bounded as it is, and what rounding lost acts
only on how far values move within the ball (`backward`, `dual.RoundedPull`). That costs some 1e-5 to 1e-3 of the
distance between a margin and its value at the middle. Where so little could have cost a proof, float64 is asked again.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustcli.balls import Ball
from robustcli.bounds.interval import at_logits
from robustcli.bounds.types import Bounds, MarginBounds
from robustcli.networks.layers import Diagonal
from robustcli.networks.network import Network

THIN = 0.01  # of the distance to the value at the middle: margins that fail by less are asked again in float64


class RowBound(Protocol):
    """A bound that can pull its rows back in another precision."""

    def __call__(
        self,
        network: Network,
        ball: Ball,
        rows: Tensor,
        *,
        known: Sequence[Bounds] | None = None,
        outward: bool = True,
        rounded: Network | None = None,
    ) -> MarginBounds: ...


def in_single(bound: RowBound) -> RowBound:
    """The bound with rows in float32 for a network in float64, where float32 can be trusted."""

    @functools.wraps(bound)
    def lighter(
        network: Network,
        ball: Ball,
        rows: Tensor,
        *,
        known: Sequence[Bounds] | None = None,
        outward: bool = True,
        rounded: Network | None = None,
    ) -> MarginBounds:
        if not (outward and rounded is None and network.dtype == torch.float64 and trusted(network.device)):
            return bound(network, ball, rows, known=known, outward=outward, rounded=rounded)
        single = copy.deepcopy(network).float()
        if not faithful(network, single):
            return bound(network, ball, rows, known=known)
        found = bound(network, ball, rows, known=known, rounded=single)
        thin = thinly_open(found.margins, at_logits(rows, network(ball.middle()))).nonzero().squeeze(1)
        if len(thin) == 0:
            return found
        again = bound(network, ball.take(thin), rows[thin], known=[bounds.take(thin) for bounds in found.layers])
        return MarginBounds(
            found.margins.index_copy(0, thin, torch.fmax(again.margins, found.margins[thin])),
            [_put(whole, thin, part) for whole, part in zip(found.layers, again.layers, strict=True)],
        )

    return lighter


def thinly_open(margins: Tensor, values: Tensor) -> Tensor:
    """Whether rounding may be why margins [B, T] are not positive, given their `values` at the middle, [B] bool.

    It may where all that fail do so by little, or are no finite numbers; not where none fails.
    """
    failed = ~(margins > 0)
    plainly = failed & margins.isfinite() & (margins <= -THIN * (values - margins))
    return failed.any(1) & ~plainly.any(1)


def faithful(network: Network, single: Network) -> bool:
    """Whether every number of the float32 copy is as near to its own as `rows.pull_roundings` counts on: numbers below
    the range of float32 lose more than a share of themselves."""
    unit = torch.finfo(torch.float32).eps / 2
    near = [
        _within(unit, one, other)
        for one, other in zip(network.state_dict().values(), single.state_dict().values(), strict=True)
        if one.is_floating_point()
    ]
    near += [
        _within(4 * unit, layer.scale_shift()[0], other.scale_shift()[0])
        for block, lighter in zip(network.blocks, single.blocks, strict=True)
        for layer, other in zip(block.layers, lighter.layers, strict=True)
        if isinstance(layer, Diagonal) and isinstance(other, Diagonal)
    ]
    return all(near)


def _within(share: float, exact: Tensor, rounded: Tensor) -> bool:
    return bool(((rounded.to(exact.dtype) - exact).abs() <= share * exact.abs()).all())


def trusted(device: torch.device) -> bool:
    """Whether float32 arithmetic is that of IEEE there, sum by sum.

    Convolutions by Winograd's or Fourier's way have larger errors than the sums they stand for, some settings let
    products lose bits, and others take small numbers for 0: none of that happens in oneDNN's direct convolutions on a
    CPU in its strict mode.
    """
    modes = [os.environ.get(f"{name}_DEFAULT_FPMATH_MODE", "STRICT").upper() for name in ("ONEDNN", "DNNL")]
    direct = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    small = torch.full((1,), 1e-39) * torch.ones(1)
    return device.type == "cpu" and direct and modes == ["STRICT", "STRICT"] and _whole_products() and bool(small != 0)


def _whole_products() -> bool:
    """Whether torch's switches leave float32 products their bits. Mixed with the older switch the newer ones make it
    raise an error."""
    newer = [getattr(torch.backends.mkldnn, name, None) for name in ("conv", "matmul")]
    if any(getattr(switch, "fp32_precision", "none") not in ("none", "ieee") for switch in newer):
        return False
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        return False


def _put(whole: Bounds, index: Tensor, part: Bounds) -> Bounds:
    return Bounds(whole.lower.index_copy(0, index, part.lower), whole.upper.index_copy(0, index, part.upper))
