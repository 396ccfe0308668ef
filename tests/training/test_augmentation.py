"""Augmented images are shifted, mirrored, recoloured copies inside the box."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robustcli.data.specs import spec
from robustcli.errors import RecipeError
from robustcli.recipes.model import Training
from robustcli.training.augmentation import PAD, augmentation, colour, crop, mirror
from robustcli.training.randomness import generator


def images(count: int = 64, channels: int = 3, side: int = 6) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=generator(0, "images"))


@pytest.mark.parametrize("padding", [1, PAD, 4])
def test_a_crop_is_one_of_all_shifts_and_all_occur(padding: int) -> None:
    clean = images(600)
    change = augmentation("crop-mirror", spec("svhn"), padding)
    cropped = change(clean, generator(1, "crop"))
    padded = torch.nn.functional.pad(clean, (padding,) * 4)
    places = range(2 * padding + 1)
    shifts = set()
    for image in range(len(clean)):
        found = [
            (row, column)
            for row in places
            for column in places
            if torch.equal(padded[image, :, row : row + 6, column : column + 6], cropped[image])
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == len(places) ** 2


def test_the_default_padding_is_the_recipes() -> None:
    """A crop without a padding is the crop of every recipe that does not name one."""
    clean = images(20)
    named = augmentation("crop-mirror-colour", spec("cifar10"), Training().padding)
    unnamed = augmentation("crop-mirror-colour", spec("cifar10"))
    assert torch.equal(named(clean, generator(7, "crop")), unnamed(clean, generator(7, "crop")))


def test_mirroring_flips_about_half() -> None:
    clean = images(400)
    mirrored = mirror(clean, generator(2, "mirror"))
    flipped = (mirrored == clean.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored[~flipped], clean[~flipped])
    assert 150 < flipped.sum() < 250


def test_colours_move_within_the_published_ranges() -> None:
    grey = torch.full((500, 3, 4, 4), 0.5)
    moved = colour(grey, generator(3, "colour"), (0.0, 1.0))
    assert moved.min() >= 0.4 - 1e-6
    assert moved.max() <= 0.6 + 1e-6
    contrast = colour(images(500) * 0.2 + 0.4, generator(4, "colour"), None)
    ratio = contrast.std((2, 3)) / (images(500) * 0.2 + 0.4).std((2, 3))
    assert 0.6 - 1e-3 < ratio.min() < 0.65
    assert 1.35 < ratio.max() < 1.4 + 1e-3


def test_everything_stays_in_the_box() -> None:
    change = augmentation("crop-mirror-colour", spec("cifar10"))
    moved = change(images(200), generator(5, "all"))
    assert moved.shape == (200, 3, 6, 6)
    assert moved.min() >= 0
    assert moved.max() <= 1


@pytest.mark.parametrize("name", ["mnist", "gtsrb", "svhn", "digits"])
def test_digits_and_signs_are_never_mirrored(name: str) -> None:
    dataset = spec(name)
    clean = images(50)
    noise = generator(6, "crop")
    assert torch.equal(augmentation("crop-mirror", dataset)(clean, generator(6, "crop")), crop(clean, noise))
    other = augmentation("crop-mirror", dataclasses.replace(dataset, name="cifar10"))
    assert not torch.equal(other(clean, generator(6, "crop")), crop(clean, generator(6, "crop")))


def test_none_changes_nothing_and_features_cannot_be_cropped() -> None:
    clean = images(3)
    assert torch.equal(augmentation("none", spec("har"))(clean, generator(0)), clean)
    with pytest.raises(RecipeError, match="needs images"):
        augmentation("crop-mirror", spec("har"))
