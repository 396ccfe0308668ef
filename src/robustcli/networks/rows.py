"""Linear functionals of a layer's values, pulled back towards the input: the engine behind every backward bound.

A row is one functional per (image, unit). Behind a convolution it touches only a small window of the layer below, so it
is stored as that window (values [n, C, s, s] and a position on the unit grid) and pulled back by one shared matrix,
at the cost of the window instead of the whole map. Behind a dense layer, or once the window is as large as the map, it
is stored whole (values [n, *shape]) and pulled back by the layers' adjoints. Rows are ragged: any set of units of any
image, so that bounds are computed only where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.networks.layers import Affine, Conv2d, Diagonal, Linear, Shape
from robustcli.networks.network import Block
from robustcli.networks.phases import adjoint, phased, spread


@dataclass(frozen=True)
class Window:
    """Square windows of a map: row i covers rows `stride * y - origin ... + size` of the map, (y, x) its position.

    `grid` is the extent of positions; `position` [n] = y * grid[1] + x.
    """

    position: Tensor
    grid: tuple[int, int]
    stride: int
    origin: int
    size: int

    def through(self, layer: Conv2d) -> Window:
        """The window of the layer's input that this window of its output depends on."""
        return replace(
            self,
            stride=self.stride * layer.stride,
            origin=self.origin * layer.stride + layer.padding,
            size=(self.size - 1) * layer.stride + layer.kernel,
        )

    def padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, right, top, bottom) zeros around a map so that every window lies inside, in `F.pad` order."""
        bottom, right = (
            max(0, (count - 1) * self.stride - self.origin + self.size - side)
            for count, side in zip(self.grid, (height, width), strict=True)
        )
        return self.origin, right, self.origin, bottom


@dataclass(frozen=True)
class Rows:
    """n functionals of values of `shape`.

    Args:
        image: which image of the batch each row belongs to, [n].
        values: coefficients, [n, *shape], or [n, C, size, size] with a window.
        shape: shape of the values the rows act on.
        window: None for whole rows.
    """

    image: Tensor
    values: Tensor
    shape: Shape
    window: Window | None = None

    @classmethod
    def units(cls, shape: Shape, image: Tensor, unit: Tensor, dtype: torch.dtype) -> Rows:
        """Unit vectors: row i picks value `unit[i]` (flat index into `shape`) of image `image[i]`."""
        if len(shape) == 3:
            channels, height, width = shape
            one = torch.eye(channels, dtype=dtype, device=unit.device)[unit // (height * width)]
            window = Window(unit % (height * width), (height, width), stride=1, origin=0, size=1)
            return cls(image, one.view(-1, channels, 1, 1), shape, window)
        size = math.prod(shape)
        one = torch.zeros(len(unit), size, dtype=dtype, device=unit.device).scatter_(1, unit.unsqueeze(1), 1.0)
        return cls(image, one.view(-1, *shape), shape)

    @classmethod
    def outputs(cls, block: Block, image: Tensor, unit: Tensor) -> Rows:
        """Unit vectors of the block's output pulled back to its input: its rows W_i, picked instead of multiplied."""
        last = block.layers[-1]
        if isinstance(last, Conv2d):
            height, width = last.out_shape[1:]
            window = Window(unit % (height * width), (height, width), stride=1, origin=0, size=1).through(last)
            values = last.weight.index_select(0, unit // (height * width))
            rows = cls(image, values, last.in_shape, window)
        elif isinstance(last, Linear):
            rows = cls(image, last.weight.index_select(0, unit), last.in_shape)
        else:
            return cls.units(block.out_shape, image, unit, block.offset().dtype).through(block)
        return rows._through_layers(block.layers[:-1], hanging=rows.window is not None)

    @classmethod
    def whole(cls, values: Tensor) -> Rows:
        """R functionals per image: values [B, R, *shape], in the order of the images."""
        batch, count = values.shape[:2]
        image = torch.arange(batch, device=values.device).repeat_interleave(count)
        return cls(image, values.flatten(0, 1), tuple(values.shape[2:]))

    def __len__(self) -> int:
        return len(self.image)

    def gather(self, maps: Tensor) -> Tensor:
        """What each row sees of its image's map, zero outside the map: maps [B, *shape] -> like `values`."""
        if self.window is None:
            if _channels_last(self.values):
                if len(maps) == 1:
                    return maps.contiguous(memory_format=torch.channels_last).expand(len(self), *self.shape)
                return maps.permute(0, 2, 3, 1).contiguous().index_select(0, self.image).permute(0, 3, 1, 2)
            return maps.expand(len(self), *self.shape) if len(maps) == 1 else maps.index_select(0, self.image)
        window, (height, width) = self.window, self.shape[1:]
        padded = F.pad(maps, window.padding(height, width))
        tiles = padded.unfold(2, window.size, window.stride).unfold(3, window.size, window.stride)
        tiles = tiles[:, :, : window.grid[0], : window.grid[1]].permute(0, 2, 3, 1, 4, 5)
        flat = tiles.reshape(-1, math.prod(self.values.shape[1:]))
        index = self.image * math.prod(window.grid) + window.position
        return flat.index_select(0, index).view(self.values.shape)

    def times(self, maps: Tensor) -> Rows:
        """Rows scaled entrywise by their image's map [B, *shape]."""
        return replace(self, values=self.values * self.gather(maps))

    def masked(self, maps: Tensor) -> Rows:
        """Rows scaled entrywise by their image's map of 0 and 1 [B, *shape] (in bytes: a quarter of what floats take to
        gather and to keep for the gradient, and five times faster than a selection)."""
        return replace(self, values=self.values * self.gather(maps.to(torch.uint8)))

    def inside(self) -> Rows:
        """Rows with the coefficients outside the map (a window over the padding) set to zero."""
        if self.window is None:
            return self
        ones = self.values.new_ones(1, 1, *self.shape[1:])
        one = replace(self, image=torch.zeros_like(self.image), values=self.values[:, :1])
        return replace(self, values=self.values * one.gather(ones))

    def dense(self) -> Rows:
        """The same rows stored whole."""
        if self.window is None:
            return self
        window, (channels, height, width) = self.window, self.shape
        left, right, top, bottom = window.padding(height, width)
        columns = width + left + right
        y, x = window.position // window.grid[1] * window.stride, window.position % window.grid[1] * window.stride
        offsets = torch.arange(window.size, device=y.device)
        cells = (y.view(-1, 1, 1) + offsets.view(-1, 1)) * columns + x.view(-1, 1, 1) + offsets
        canvas = self.values.new_zeros(len(self), channels, (height + top + bottom) * columns)
        index = cells.flatten(1).unsqueeze(1).expand(-1, channels, -1)
        canvas = canvas.scatter(2, index, self.values.flatten(2)).view(
            *canvas.shape[:2], height + top + bottom, columns
        )
        return Rows(self.image, canvas[:, :, top : top + height, left : left + width], self.shape)

    def through(self, block: Block) -> Rows:
        """Rows acting on the block's output, as rows acting on its input (the bias left aside)."""
        return self._through_layers(block.layers, hanging=False)

    def _through_layers(self, layers: Sequence[Affine], hanging: bool) -> Rows:
        rows = self
        for layer in reversed(layers):
            # Behind another layer of the block a window may hang over the padding, which is no value of this layer.
            rows = (rows.inside() if hanging else rows)._through_layer(layer)
            hanging = rows.window is not None and (hanging or isinstance(layer, Conv2d))
        return rows

    def _through_layer(self, layer: Affine) -> Rows:
        if isinstance(layer, Diagonal):
            scale, _ = layer.scale_shift()
            return replace(self, values=self.values * scale)
        if isinstance(layer, Conv2d) and self.window is not None and self._window_pays(layer):
            return self._through_window(layer)
        values = self.dense().values
        if isinstance(layer, Conv2d):
            values = adjoint(layer, values)
        else:
            values = layer.adjoint(values)
        return Rows(self.image, values, layer.in_shape)

    def _window_pays(self, layer: Conv2d) -> bool:
        """Whether the shared matrix costs less than the convolution's adjoint over the whole map."""
        assert self.window is not None
        inner, outer = self.window.size**2, self.window.through(layer).size ** 2
        channels, height, width = layer.out_shape
        by_window = channels * inner * layer.in_shape[0] * outer
        by_map = layer.in_shape[0] * channels * height * width * layer.kernel**2
        return by_window <= 4 * by_map and outer < 4 * math.prod(layer.in_shape[1:])

    def _through_window(self, layer: Conv2d) -> Rows:
        assert self.window is not None
        window = self.window.through(layer)
        if phased(self.values) and self.window.size > 1:
            values = spread(self.values, layer.weight, layer.stride, 0, (window.size, window.size))
        else:
            values = self.values.flatten(1) @ _window_matrix(layer, self.window.size, window.size)
        shape = (len(self), layer.in_shape[0], window.size, window.size)
        return Rows(self.image, values.reshape(shape), layer.in_shape, window)


def pull_roundings(block: Block) -> int:
    """Roundings in one coefficient that a row gets on its way through a block: weights brought to its precision, the
    slope of the layer above and sums over the outputs that one input reaches. A scale is itself made of several."""
    reached = (
        layer.out_shape[0] * math.ceil(layer.kernel / layer.stride) ** 2 if isinstance(layer, Conv2d) else layer.fan_out
        for layer in block.layers
    )
    scales = sum(isinstance(layer, Diagonal) for layer in block.layers)
    return sum(count + 2 for count in reached) + 6 * scales + 16


def widest(blocks: Sequence[Block]) -> int:
    """The most coefficients that a unit row of the last block has on its way to the input of the first, about."""
    size, width = 1 if len(blocks[-1].out_shape) == 3 else None, 1
    for layer in (layer for block in reversed(blocks) for layer in reversed(block.layers)):
        whole = math.prod(layer.in_shape)
        if size is None or not isinstance(layer, Conv2d | Diagonal):
            size, width = None, max(width, whole)
        elif isinstance(layer, Conv2d):
            size = (size - 1) * layer.stride + layer.kernel
            width = max(width, min(layer.in_shape[0] * size**2, 4 * whole))
    return width


def by_image(units: Tensor, limit: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Units in the order of their images, [n, 2] pairs of image and unit, in portions of at most `limit`: some
    consecutive images, then the place of each unit's image among these, and the unit, [m] each.

    Portions end with an image where they can: few images' maps stay in the cache, and rows of a single image see them
    without a copy.
    """
    numbers, counts = (each.tolist() for each in torch.unique_consecutive(units[:, 0], return_counts=True))
    begin = first = 0
    while begin < len(units):
        last, end = first, begin + min(counts[first], limit)
        while counts[last] <= limit and last + 1 < len(counts) and end + counts[last + 1] - begin <= limit:
            last, end = last + 1, end + counts[last + 1]
        image, unit = units[begin:end].unbind(1)
        yield slice(numbers[first], numbers[last] + 1), image - numbers[first], unit
        counts[last] -= min(counts[last], limit)
        begin, first = end, last + (counts[last] == 0)


def _window_matrix(layer: Conv2d, size: int, larger: int) -> Tensor:
    """The adjoint from a window of the layer's output to the larger window of its input, [C size^2, C' larger^2]."""
    channels, inputs, kernel, _ = layer.weight.shape
    if size == 1:
        return layer.weight.flatten(1)
    row = inputs * larger**2
    matrix = layer.weight.new_zeros(channels * size**2, row)
    # Cell (y, x) of the window has the filter in its row of the matrix, moved by (y, x) strides.
    steps = (size**2 * row, size * row + layer.stride * larger, row + layer.stride, larger**2, larger, 1)
    filters = matrix.as_strided((channels, size, size, inputs, kernel, kernel), steps)
    filters.copy_(layer.weight.view(channels, 1, 1, inputs, kernel, kernel))
    return matrix


def _channels_last(values: Tensor) -> bool:
    return values.dim() == 4 and values.stride(1) == 1 and values.shape[1] > 1
