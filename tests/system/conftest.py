"""Houses, and receivers for what they deliver."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import find_binary
from evoflask.errors import Misconfigured
from tests.conftest import missing
from tests.system.house import House
from tests.system.reliability import Table

MakeHouse = Callable[..., House]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who writes a row of the table of faults is found by `-m fault`."""
    for item in items:
        if "table" in getattr(item, "fixturenames", ()):
            item.add_marker("fault")


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    """For the row that the test writes into docs/reliability.md."""
    return Table(request.node.nodeid)


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[MakeHouse]:
    """Builds one with options: `make_house(workers=2, maxmemory="20mb")`."""
    try:
        find_binary()
    except Misconfigured as error:
        missing(str(error))
    made: list[House] = []

    def make(**options: Any) -> House:
        folder = tmp_path / f"house{len(made)}"
        folder.mkdir()
        house = House(folder, **options)
        made.append(house)
        return house.__enter__()

    yield make
    for house in made:
        house.close()
        print(house.tail())  # pytest shows it where the test failed


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """One web process, one worker, one clock."""
    return make_house()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A destination in a process of its own."""
    with Receiver() as made:
        yield made


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Mount a file system of 16 MB that every user may enter. Needs root."""
    folder = Path(tempfile.mkdtemp(prefix="evoflask-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        missing("only root may mount a small file system")
    folder.chmod(0o755)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()
