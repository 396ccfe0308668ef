"""Random numbers belong to a place, not to a history."""

from __future__ import annotations

import torch

from robustcli.training.randomness import generator, number


def test_equal_places_draw_equal_numbers_and_others_do_not() -> None:
    first = torch.rand(5, generator=generator(3, "order", 7))
    torch.rand(100, generator=generator(3, "objective", 7, 1))
    assert torch.equal(first, torch.rand(5, generator=generator(3, "order", 7)))
    places = [(3, "order", 7), (4, "order", 7), (3, "order", 8), (3, "objective", 7), (3, "order", 7, 0)]
    assert len({number(*place) for place in places}) == len(places)


def test_numbers_are_the_same_on_every_machine() -> None:
    assert number(0, "order", 1) == 4489457307835839548
