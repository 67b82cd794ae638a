"""How many lanes a drain gives back."""

from __future__ import annotations

import random

import pytest

from evoflask.delivery.sharing import surplus


@pytest.mark.parametrize(
    ("mine", "others", "given"),
    [
        (100, [], 0),
        (100, [0], 50),
        (100, [0, 0, 0], 75),
        (100, [100], 0),
        (60, [50], 0),
        (2, [0], 1),
        (1, [0], 0),
        (0, [100], 0),
        (3, [2], 0),
    ],
)
def test_what_is_above_ones_share_is_given_back(mine: int, others: list[int], given: int) -> None:
    assert surplus(mine, others) == given


@pytest.mark.parametrize("seed", range(50))
def test_lanes_come_to_rest(seed: int) -> None:
    luck = random.Random(seed)
    loads = [luck.choice([0, luck.randrange(500)]) for _ in range(luck.randint(2, 6))]
    total = sum(loads)

    for _ in range(10):
        given = [surplus(n, loads[:k] + loads[k + 1 :]) for k, n in enumerate(loads)]
        loads = [n - g for n, g in zip(loads, given, strict=True)]
        for _ in range(sum(given)):  # whoever has least to do is the first to take
            loads[loads.index(min(loads))] += 1

    assert sum(loads) == total
    assert not any(surplus(n, loads[:k] + loads[k + 1 :]) for k, n in enumerate(loads))
