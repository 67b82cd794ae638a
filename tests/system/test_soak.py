"""The soak of `make soak`, a minute of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from evoflask.dev.redis_server import find_binary
from evoflask.errors import Misconfigured
from tests.conftest import missing
from tests.system.soak import soak


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(300)
def test_a_minute_of_load_and_kills_loses_nothing_and_grows_nothing(tmp_path: Path) -> None:
    try:
        find_binary()
    except Misconfigured as error:
        missing(str(error))

    report = soak(tmp_path, 60, seed=1)

    print(report.text())
    assert report.wrong == []
    assert report.kills.total() >= 3
