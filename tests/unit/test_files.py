"""Connections and websockets fit into the limit of open files."""

from __future__ import annotations

import pytest

from evoflask.serving.files import Files, share


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        (100_000, Files(4_212, 100)),
        (4_096, Files(3_484, 100)),
        (1_024, Files(412, 100)),
        (256, Files(96, 32)),
        (128, Files(48, 16)),
        (64, Files(12, 4)),
    ],
)
def test_what_fits_leaves_files_for_everything_else(limit: int, found: Files) -> None:
    assert share(limit, 4_212, 100) == found
    assert found.connections + found.sockets < limit
