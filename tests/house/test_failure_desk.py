"""The failure desk's story, told to a browser: what cannot be delivered is seen, understood and
mended by somebody who knows nothing but the address and the key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evoflask.dev.process import Process, free_port, wait_for
from evoflask.dev.receiver import Receiver
from tests.house.browser import Browser, browser
from tests.system.house import Client

PICTURES = os.environ.get("PICTURES", "")
"""A folder that gets the pictures of the manual."""
EVENTS = 8
"""More than what makes a lane pause."""


class MakeRun:
    """What `make run` starts."""

    def __init__(self, folder: Path, root: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._root = root
        self._env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PORT": str(port),
            "EVOFLASK_HOME": str(folder / "home"),
        }
        command = [sys.executable, "-m", "evoflask.dev"]
        self.process = Process(command, env=self._env, cwd=root, log=folder / "log")
        self._home = folder / "home"

    @property
    def key(self) -> str:
        """The key that it made for itself."""
        return (self._home / "apikey").read_text().strip()

    def audit(self) -> tuple[int, str]:
        """`flask audit --deep`: (exit status, what it says)."""
        done = subprocess.run(
            ["flask", "--app", "app", "audit", "--deep"],
            env=self._env | {"AUTHENTICATION_API_KEY": self.key},
            cwd=self._root,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def running(tmp_path: Path, root: Path) -> Iterator[MakeRun]:
    """`make run`, until the test ends."""
    made = MakeRun(tmp_path, root)
    with made.process as process:
        wait_for(lambda: "Ctrl-C stops" in process.output() or not process.alive, 60)
        assert process.alive, process.output()
        yield made
        process.stop(grace=10)
        assert "level=error" not in process.output()


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path) as opened:
        yield opened


def shoot(person: Browser, name: str, tmp_path: Path) -> None:
    person.shoot((Path(PICTURES) if PICTURES else tmp_path) / f"rq-{name}.png")


def lane(client: Client) -> Any:
    (found,) = client.good("GET", "/lane?instance=acme")["lanes"]
    return found


def letters(client: Client) -> list[Any]:
    found: list[Any] = client.good("GET", "/deadletter?instance=acme")["letters"]
    return found


@pytest.mark.timeout(240)
def test_a_broken_webhook_is_seen_understood_and_mended_by_clicks(
    running: MakeRun, person: Browser, tmp_path: Path
) -> None:
    client = Client(running.url, running.key)
    with Receiver() as receiver:
        # A webhook breaks: what stands before it cannot reach it.
        client.create("acme")
        client.subscribe("acme", "crm", receiver.url("/status/502"), retry=[])
        ids = [f"3EB0A{n}" for n in range(EVENTS)]
        for event_id in ids:
            client.emit("acme", id=event_id, data={"text": "private words"})

        # Its lane pauses; what was tried lies in the letters.
        wait_for(lambda: lane(client)["state"] == "paused", 30, "the pause")
        wait_for(lambda: len(letters(client)) >= 5, 30, "the letters")

        # Somebody without a login gets a form, and with the key the page that he asked for.
        page = f"{running.url}/rq/0/view/jobs/evoflask:webhook/failed/8/asc/1"
        person.open(page)
        assert "/rq/login" in person.driver.current_url
        person.write("#key", "not the key")
        assert "not a key for this page" in person.read("[role=alert]")
        person.write("#key", running.key)

        # The reason can be read, and no payload.
        row = person.read("tr[data-role=job]", ids[0])
        assert f"webhook acme/crm MESSAGES_UPSERT {ids[0]} 502 after 1 try" in row
        assert "exhausted: the last retry failed" in row
        assert "private words" not in person.text()
        assert not person.shows("#desk-said")
        shoot(person, "letters", tmp_path)
        person.open(f"{running.url}/rq/0/view/queues")
        person.read("#queues tr", "evoflask:webhook")
        shoot(person, "queues", tmp_path)
        number = next(each["id"] for each in letters(client) if each["eventId"] == ids[0])
        person.open(f"{running.url}/rq/0/view/job/dl-{number}")
        assert "502" in person.read("pre.exc_info", "exhausted")

        # The URL is mended, Requeue is clicked: the event arrives with its id.
        client.change("acme", "crm", url=receiver.url("/crm"))
        person.click("#requeue-job-btn")
        person.read("#desk-said", f"Letter {number} is delivered again.")
        shoot(person, "requeued", tmp_path)
        wait_for(
            lambda: any(one.id == ids[0] and one.path == "/crm" for one in receiver.received()),
            30,
            "the event with its id",
        )

        # The letter is gone from its list; Requeue All does the same for the others.
        person.open(page)
        person.read("tr[data-role=job]", "502 after 1 try")
        assert ids[0] not in person.text()
        person.click("#requeue-all-btn")
        person.click("#confirmation-modal-yes")
        person.read("#desk-said", "Letters that are delivered again:")
        person.read("#jobs", "No jobs.")
        wait_for(
            lambda: {one.id for one in receiver.received() if one.path == "/crm"} == {*ids},
            60,
            "all events at the mended URL",
        )

    # The books balance, and nobody complained.
    wait_for(lambda: not lane(client)["backlog"], 30)
    books = lane(client)["books"]
    assert (books["delivered"], books["routed"]) == (EVENTS, EVENTS)
    assert books["requeued"] == books["dead"]
    assert letters(client) == []
    status, said = running.audit()
    assert status == 0, said
    # An answer of 401 to a wrong key is what a browser calls an error too.
    assert [each for each in person.complaints() if "401" not in each] == []
    person.click("#desk-logout")
    person.read("button", "Log in")
    person.open(page)
    assert "/rq/login" in person.driver.current_url
    print(json.dumps(books))
