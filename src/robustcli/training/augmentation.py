"""Random changes of training images, as in the code of 000 (flag data_augm). Test images stay as they are.

    crop-mirror          pad with zeros (2), crop at random; mirror half of the images where the class allows it
    crop-mirror-colour   then brightness +-0.1 and contrast 0.6..1.4 around each channel's mean, clipped to the box

All draws come from the given CPU generator, so images change alike on every device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcli.data.specs import Spec
from robustcli.errors import RecipeError

PAD = 2
BRIGHTNESS = 0.1
CONTRAST = (0.6, 1.4)
NOT_MIRRORED = frozenset({"mnist", "gtsrb", "svhn", "digits"})
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


def augmentation(name: str, dataset: Spec, padding: int = PAD) -> Augmentation:
    """The named change of a batch of points.

    Args:
        name: a key of STEPS, or none.
        dataset: which images these are.
        padding: zeros on each side before a crop.
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
    return STEPS[name](dataset, padding)


def _crop_mirror(dataset: Spec, padding: int) -> Augmentation:
    def change(images: Tensor, generator: torch.Generator) -> Tensor:
        images = crop(images, generator, padding)
        return images if dataset.name in NOT_MIRRORED else mirror(images, generator)

    return change


def _crop_mirror_colour(dataset: Spec, padding: int) -> Augmentation:
    first = _crop_mirror(dataset, padding)
    return lambda images, generator: colour(first(images, generator), generator, dataset.box)


STEPS: dict[str, Callable[[Spec, int], Augmentation]] = {
    "crop-mirror": _crop_mirror,
    "crop-mirror-colour": _crop_mirror_colour,
}
