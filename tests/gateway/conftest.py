"""Houses of one web process, and tenants in them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from evoflask.dev.redis_server import find_binary
from evoflask.errors import Misconfigured
from tests.conftest import missing
from tests.gateway.clients import Client as Socket
from tests.system.house import Client, House, message

MakeHouse = Callable[..., House]
_names = itertools.count()


@dataclass
class Tenant:
    """An instance whose websocket subscription is on."""

    house: House
    client: Client
    name: str
    token: str

    def emit(self, *numbers: int, **more: Any) -> None:
        """Events with `data.n`, in one request."""
        self.emit_data(*map(message, numbers), **more)

    def emit_data(self, *data: Any, **more: Any) -> None:
        """Emit events with these `data`, in one request."""
        events = [{"event": "MESSAGES_UPSERT", "data": each, **more} for each in data]
        answer = self.client.emit_many(self.name, events)
        assert answer.status_code == 202, answer.text

    def socket(self, key: str | None = None, **options: Any) -> Socket:
        """A client with the instance's token."""
        return Socket(self.house, self.token if key is None else key, **options)


@pytest.fixture(scope="module")
def make_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeHouse]:
    """Builds one with options; what it starts lasts as long as the module's tests."""
    try:
        find_binary()
    except Misconfigured as error:
        missing(str(error))
    made: list[House] = []

    def make(**options: Any) -> House:
        usual: dict[str, Any] = {"workers": 0, "clock": False}
        house = House(tmp_path_factory.mktemp("house"), **usual | options)
        made.append(house)
        return house.__enter__()

    yield make
    for house in made:
        house.close()
        print(house.tail())


@pytest.fixture(scope="module")
def house(make_house: MakeHouse) -> House:
    """One for all tests of the module: each has instances of its own."""
    return make_house()


def make_tenant(house: House, **fields: Any) -> Tenant:
    client, name = house.client(), f"tenant-{next(_names)}"
    made = client.create(name, websocket={"events": []}, **fields)
    return Tenant(house, client, name, made["hash"])


@pytest.fixture
def tenant(house: House) -> Tenant:
    """An instance of the test's own."""
    return make_tenant(house)


@pytest.fixture
def other(house: House) -> Tenant:
    """Another one."""
    return make_tenant(house)
