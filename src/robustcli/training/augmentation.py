"""Random changes of training images. Test images stay as they are.

    crop-mirror          pad with zeros (2), crop at random; mirror half of the images where the class allows it
    crop-mirror-colour   then brightness +-0.1 and contrast 0.6..1.4 around each channel's mean, clipped to the box
    affine               turn and slant around the middle, sharpen

The first two are those of the code of 000 (flag data_augm). All draws come from the given CPU generator, so images
change alike on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.data.specs import Spec
from robustcli.errors import RecipeError
from robustcli.recipes.model import Affine

PAD = 2
BRIGHTNESS = 0.1
CONTRAST = (0.6, 1.4)
NOT_MIRRORED = frozenset({"mnist", "gtsrb", "svhn", "digits"})
NARROW = Affine()
Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def crop(images: Tensor, generator: torch.Generator, padding: int = PAD) -> Tensor:
    """Images [B, C, H, W] padded by `padding` zeros and cut back to H x W at a random place each."""
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    corner = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(images.device)
    rows = corner[0].unsqueeze(1) + torch.arange(height, device=images.device)
    columns = corner[1].unsqueeze(1) + torch.arange(width, device=images.device)
    here = torch.arange(count, device=images.device)
    return padded.permute(0, 2, 3, 1)[here[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images [B, C, H, W], drawn at random, mirrored left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def colour(images: Tensor, generator: torch.Generator, box: tuple[float, float] | None) -> Tensor:
    """Brightness and contrast changed at random, one draw an image, clipped to the box."""
    shift, scale = torch.rand(2, len(images), 1, 1, 1, generator=generator).to(images.device, images.dtype)
    images = images + BRIGHTNESS * (2 * shift - 1)
    mean = images.mean((2, 3), keepdim=True)
    images = mean + (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * scale) * (images - mean)
    return images if box is None else images.clamp(*box)


def affine(images: Tensor, generator: torch.Generator, box: tuple[float, float] | None, limits: Affine) -> Tensor:
    """Images [B, C, H, W] turned and slanted around their middle, zeros coming in, then sharpened inside the box.

    What comes to pixel (x, y), counted from the middle, is the image at R(angle) (x + shear y, y), interpolated by
    cubics (linear interpolation blurs, and grey pixels are what an linf attack can move).
    """
    count, _, height, width = images.shape
    angle, shear = 2 * torch.rand(2, count, generator=generator) - 1
    angle, shear = math.radians(limits.degrees) * angle, limits.shear * shear
    cos, sin = angle.cos(), angle.sin()
    # grid_sample counts from -1 to 1 on both sides, so that an oblong image needs its angles stretched.
    across, down = [cos, cos * shear - sin], [sin, sin * shear + cos]
    across[1], down[0] = across[1] * height / width, down[0] * width / height
    still = torch.zeros(count)
    turn = torch.stack([torch.stack([*row, still], 1) for row in (across, down)], 1).to(images.device, images.dtype)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    middle = 0.0 if box is None else sum(box) / 2
    images = middle + limits.contrast * (images - middle)
    return images if box is None else images.clamp(*box)


def augmentation(name: str, dataset: Spec, padding: int = PAD, limits: Affine = NARROW) -> Augmentation:
    """The named change of a batch of points.

    Args:
        name: a key of STEPS, or none.
        dataset: which images these are.
        padding: zeros on each side before a crop.
        limits: of `affine`.
    Raises:
        RecipeError: when the data set does not hold images.
    """
    if name == "none":
        return lambda images, generator: images
    if len(dataset.input_shape) != 3:
        raise RecipeError(
            f"training.augmentation {name!r} needs images; {dataset.name} has inputs {list(dataset.input_shape)}",
            "set training.augmentation to none",
        )
    return STEPS[name](dataset, padding, limits)


def _crop_mirror(dataset: Spec, padding: int, limits: Affine) -> Augmentation:
    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        images = crop(images, generator, padding)
        return images if dataset.name in NOT_MIRRORED else mirror(images, generator)

    return change


def _crop_mirror_colour(dataset: Spec, padding: int, limits: Affine) -> Augmentation:
    first = _crop_mirror(dataset, padding, limits)
    return lambda images, generator: colour(first(images, generator), generator, dataset.box)


def _affine(dataset: Spec, padding: int, limits: Affine) -> Augmentation:
    return lambda images, generator: affine(images, generator, dataset.box, limits)


STEPS: dict[str, Callable[[Spec, int, Affine], Augmentation]] = {
    "crop-mirror": _crop_mirror,
    "crop-mirror-colour": _crop_mirror_colour,
    "affine": _affine,
}
