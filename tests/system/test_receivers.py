"""The examples of receivers, run as their first lines say, against a house that delivers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evoflask.dev.process import Process, free_port, wait_for, whole_lines
from evoflask.receiver import Gap, gaps
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "flask": ("-m", "flask", "--app", "examples.receiver_flask", "run", "--port"),
    "fastapi": ("-m", "uvicorn", "examples.receiver_fastapi:app", "--port"),
}


class Example:
    """One of them, with the keys that it is started with."""

    def __init__(self, kind: str, folder: Path, *keys: str) -> None:
        self.port = free_port()
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SECRET": " ".join(keys)}
        command = [sys.executable, *COMMANDS[kind], str(self.port)]
        log = folder / f"example{self.port}.log"
        self.process = Process(command, env=env, cwd=ROOT, log=log).start()
        wait_for(lambda: "http://127.0.0.1" in self.process.output(), 20, "the example to listen")

    def handled(self) -> list[str]:
        """Ids, in order."""
        lines = whole_lines(self.process.log)
        return [line.split()[1] for line in lines if line.startswith("MESSAGES_UPSERT ")]


@pytest.fixture
def running() -> Iterator[list[Example]]:
    made: list[Example] = []
    yield made
    for each in made:
        each.process.stop()


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    return make_house(retry_schedule="0.2,0.2", breaker_threshold=1_000)


@pytest.mark.parametrize("kind", sorted(COMMANDS))
def test_each_event_is_handled_once_while_keys_are_exchanged(
    house: House, tmp_path: Path, running: list[Example], kind: str
) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", "http://127.0.0.1:1/hook")
    secret = client.good("POST", "/subscription/a/webhook/secret")["secret"]
    example = Example(kind, tmp_path, secret)
    running.append(example)
    client.change("a", "webhook", url=f"http://127.0.0.1:{example.port}/hook")

    client.emit("a", data=message(1), id="e-1")
    house.wait_quiet()
    # The receiver was not told of the new one yet: the old one signs beside it.
    client.good("POST", "/subscription/a/webhook/secret", {"graceSeconds": 600})
    client.emit("a", data=message(2), id="e-2")
    house.wait_quiet()
    again = {"instance": "a", "onto": "webhook", "ids": ["e-1", "e-2"]}
    client.good("POST", "/replay", again)
    house.wait_quiet()

    assert example.handled() == ["e-1", "e-2"]
    assert client.good("GET", "/deadletter")["letters"] == []


def test_what_is_not_signed_by_us_is_refused_and_what_is_missing_is_found(
    house: House, tmp_path: Path, running: list[Example]
) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", "http://127.0.0.1:1/hook")
    secret = client.good("POST", "/subscription/a/webhook/secret")["secret"]
    example = Example("flask", tmp_path, secret)
    running.append(example)
    client.change("a", "webhook", url=f"http://127.0.0.1:{example.port}/hook")
    for n in (1, 2):
        client.emit("a", data=message(n), id=f"e-{n}")
    house.wait_quiet()
    # A key that the receiver does not know: it answers 401, which this subscription gives up on.
    client.change("a", "webhook", giveUpOn=[401])
    client.good("POST", "/subscription/a/webhook/secret", {"graceSeconds": 0})
    client.emit("a", data=message(3), id="e-3")
    house.wait_quiet()
    known = set(example.handled()) - {"e-2"}  # it lost that one

    def found() -> list[Gap]:
        """The delivery log is written a moment later."""
        return list(gaps(lambda path: client.good("GET", path), "a", "webhook", known, since=0))

    wait_for(lambda: len(found()) == 2, 20, "the log to tell of both")
    lost, dead = found()
    assert example.handled() == ["e-1", "e-2"]
    assert lost == Gap("e-2", "lost here")
    assert (dead.id, dead.why) == ("e-3", "dead")
