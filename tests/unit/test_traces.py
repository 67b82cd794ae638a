"""What lies in an entry's meta, and what a stranger's traceparent may do. Without a collector."""

from __future__ import annotations

import json

import pytest

from evoflask import traces

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("meta", [{}, {"sender": "x"}, {"sender": 'a"}', "origin": "o"}])
def test_a_stamped_meta_is_the_same_object_with_the_traceparent(meta: dict[str, str]) -> None:
    stamped = traces.stamp(json.dumps(meta).encode(), GOOD)

    assert json.loads(stamped) == meta | {"traceparent": GOOD}


def test_without_traces_nothing_is_on() -> None:
    traces.follow(GOOD)

    assert not traces.on()


@pytest.mark.parametrize(
    "evil",
    ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff" + GOOD[2:],
     GOOD + "x", "é" * 55, GOOD.replace("-", "\n")],
)  # fmt: skip
def test_a_traceparent_that_is_none_names_no_span(evil: str) -> None:
    assert traces._context(evil) is None


def test_a_traceparent_names_a_span() -> None:
    found = traces._context(GOOD)

    assert found is not None
    assert traces._traceparent(found) == GOOD
