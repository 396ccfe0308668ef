"""Augmented images are shifted, mirrored, recoloured copies inside the box."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from robustcli.data.specs import spec
from robustcli.errors import RecipeError
from robustcli.networks.network import Network
from robustcli.recipes.model import Affine, Training
from robustcli.training.augmentation import PAD, Augmentation, affine, augmentation, colour, crop, mirror
from robustcli.training.loop import Silent
from robustcli.training.objective import Loss, Moment
from robustcli.training.randomness import generator
from robustcli.training.runs import prepare
from tests.training.tiny import few_rows, request, tiny_recipe


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


def centroids(images: torch.Tensor) -> torch.Tensor:
    """Centres of mass [B, 2] of images [B, 1, H, W] as (x, y), counted from the middle."""
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij")
    mass = images[:, 0] / images.sum((1, 2, 3)).view(-1, 1, 1)
    return torch.stack([(mass * x).sum((1, 2)), (mass * y).sum((1, 2))], 1)


@pytest.mark.parametrize(("degrees", "shear"), [(40, 0.0), (0, 0.5), (25, 0.3)])
def test_an_oblong_image_is_turned_and_slanted_around_its_middle(degrees: float, shear: float) -> None:
    """A blob at p goes to the z with R(angle) S(shear) z = p, whatever the image's sides."""
    height, width, count = 41, 61, 50
    y, x = torch.meshgrid(torch.arange(height) - 20.0, torch.arange(width) - 30.0, indexing="ij")
    blob = torch.exp(-((x - 8) ** 2 + (y + 5) ** 2) / 8).expand(count, 1, height, width)
    moved = affine(blob, generator(8, "affine"), (0.0, 1.0), Affine(degrees=degrees, shear=shear))
    draws = 2 * torch.rand(2, count, generator=generator(8, "affine")) - 1
    angle, slant = draws[0] * degrees * torch.pi / 180, draws[1] * shear
    found = centroids(moved)
    slanted = torch.stack([found[:, 0] + slant * found[:, 1], found[:, 1]], 1)
    turned = torch.stack(
        [
            angle.cos() * slanted[:, 0] - angle.sin() * slanted[:, 1],
            angle.sin() * slanted[:, 0] + angle.cos() * slanted[:, 1],
        ],
        1,
    )
    assert (turned - torch.tensor([8.0, -5.0])).abs().max() < 0.05
    assert (found - found[0]).abs().max() > 0.5  # every image by a draw of its own


def test_without_angle_and_slant_only_the_contrast_changes() -> None:
    clean = images(20)
    still = affine(clean, generator(9), (0.0, 1.0), Affine(degrees=0, shear=0))
    assert torch.allclose(still, clean, atol=1e-5)
    sharp = affine(clean, generator(9), (0.0, 1.0), Affine(degrees=0, shear=0, contrast=1.5))
    assert torch.allclose(sharp, (0.5 + 1.5 * (clean - 0.5)).clamp(0, 1), atol=1e-5)
    free = affine(clean, generator(9), None, Affine(degrees=0, shear=0, contrast=1.5))
    assert torch.allclose(free, 1.5 * clean, atol=1e-5)


def test_limits_of_a_recipe_arrive_and_cubics_stay_in_the_box() -> None:
    clean = images(200).round()
    far = Affine(degrees=30, shear=0.2, contrast=1.2)
    moved = augmentation("affine", spec("svhn"), limits=far)(clean, generator(10))
    assert torch.equal(moved, affine(clean, generator(10), (0.0, 1.0), far))
    assert moved.min() == 0
    assert moved.max() == 1
    assert affine(clean, generator(10), None, far).max() > 1.01  # what the box cuts


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


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        ({"augmentation": "crop-mirror", "padding": 1}, lambda images, noise: crop(images, noise, 1)),
        (
            {"augmentation": "affine", "affine": {"degrees": 30, "contrast": 1.2}},
            lambda images, noise: affine(images, noise, (0.0, 1.0), Affine(degrees=30, contrast=1.2)),
        ),
    ],
)
def test_a_step_sees_the_images_as_the_recipe_changes_them(
    settings: dict[str, Any], change: Augmentation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_rows(monkeypatch)
    trainer = prepare(request(tmp_path, tiny_recipe(**settings)))
    seen, objective = [], trainer.objective

    def watched(network: Network, points: torch.Tensor, labels: torch.Tensor, moment: Moment) -> Loss:
        seen.append(points)
        return objective(network, points, labels, moment)

    monkeypatch.setattr(trainer, "objective", watched)
    trainer.run(Silent(), max_steps=1)
    clean = trainer.train.points(trainer.order(1)[: trainer.batch], dtype=torch.float32)
    assert torch.equal(seen[0], change(clean, generator(0, "augmentation", 1, 0)))
