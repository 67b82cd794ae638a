"""The drawing in errors.py, compared with the classes."""

from __future__ import annotations

import re

from evoflask import errors


def test_the_drawing_shows_each_error_below_its_base_with_its_status() -> None:
    drawn: dict[str, tuple[int, str | None]] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([ │├└─]*)([A-Z]\w+)(?:\s+(\d{3}))?", line)
        if found and (found[1].strip() or found[2] == "EvoflaskError"):
            drawn[found[2]] = (len(found[1]), found[3])

    classes = {
        name: each
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.EvoflaskError)
    }
    assert set(drawn) == set(classes)
    for name, (depth, status) in drawn.items():
        assert len(classes[name].__mro__) - len(errors.EvoflaskError.__mro__) == (depth - 4) // 4
        assert status is None or classes[name].status == int(status)
