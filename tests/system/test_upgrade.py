"""Processes of an older release beside new ones, on one Redis and one database."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import ROOT, House, message
from tests.system.test_store_faults import Producers, letters

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(300)]

BEFORE = "a92290a49475"
"""The commit of the older release, from which an upgrade begins."""
MORE = 150
"""Events that must be accepted in each state of an upgrade."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the code of the older release, from the history of this repository."""
    folder = tmp_path_factory.mktemp("before")
    git = ["git", "-C", str(ROOT)]
    shallow = subprocess.run(
        [*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=False
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("this checkout has no history: clone the whole repository")
    with (folder / "code.tar").open("wb") as file:
        subprocess.run([*git, "archive", BEFORE], stdout=file, check=True)
    with tarfile.open(folder / "code.tar") as archive:
        archive.extractall(folder / "code", filter="data")
    return folder / "code"


def roots(before: Path, *kinds: str) -> Mapping[str, Path]:
    return dict.fromkeys(kinds, before)


def check(house: House, producers: Producers, receiver: Receiver) -> None:
    """Check that every accepted event arrived in order, and that the books balance."""
    house.wait_quiet(60)
    received = receiver.received()
    assert producers.ledger.missing(received) == []
    assert producers.ledger.disorder(received) == []
    assert house.off() == {}
    # The release before erases entries without counting. The clock of this one recounts.
    if house.roots.pop("clock", None):
        house.restart("clock", 0)
    audits: list[str] = []

    def clean() -> bool:
        status, said = house.audit()
        audits.append(said)
        return status == 0

    try:
        wait_for(clean, 60, "an audit without findings", 2)
    finally:
        print(audits[-1])
    assert "Traceback" not in house.output("web") + house.output("worker") + house.output("clock")


@pytest.mark.parametrize(
    "old", [("web",), ("worker", "clock"), ("clock",), ("web", "clock")], ids="+".join
)
def test_old_and_new_processes_side_by_side_lose_nothing(
    make_house: MakeHouse, receiver: Receiver, before: Path, old: tuple[str, ...]
) -> None:
    house = make_house(workers=2, roots=roots(before, *old), retry_schedule="0.5,0.5,1,2,4,8")
    producers = Producers(house, receiver)
    client = house.client()
    producers.wait_for(MORE)

    receiver.control(path="/t0", status=503)
    producers.wait_for(MORE)
    client.set_webhook("t1", receiver.url("/t1"), headers={"x-changed": "1"})
    client.change("t2", "webhook", concurrency=1)
    client.good("POST", "/lane/t3/webhook/pause")
    producers.wait_for(MORE)
    client.good("POST", "/lane/t3/webhook/resume")
    receiver.control(path="/t0", status=None)
    house.kill9("worker", 0)
    house.start("worker", 0)
    producers.wait_for(MORE)
    producers.stop()

    check(house, producers, receiver)


def test_a_release_is_upgraded_under_traffic_and_keeps_rows_backlog_and_letters(
    make_house: MakeHouse, receiver: Receiver, before: Path
) -> None:
    everything = roots(before, "release", "web", "worker", "clock", "flask")
    house = make_house(web=2, workers=2, roots=everything, retry_schedule="0.5,0.5,1,2,4,8")
    client = house.client()
    client.create("letters")
    client.set_webhook("letters", receiver.url("/status/410"))
    client.create("waiting")
    client.set_webhook("waiting", receiver.url("/waiting"))
    client.good("POST", "/lane/waiting/webhook/pause")
    kept: list[str] = []
    for n in range(5):
        client.emit("letters", data=message(n))
        kept.append(client.emit("waiting", data=message(n)).json()["id"])
    wait_for(lambda: letters(house) == 5, 30, "the letters", 0.1)
    producers = Producers(house, receiver)
    producers.wait_for(MORE)

    house.roots.clear()
    release = house.command("release")
    assert release.wait(60) == 0, release.output()
    for name in (("web", 0), ("clock", 0), ("worker", 0), ("web", 1), ("worker", 1)):
        producers.wait_for(MORE)
        house.restart(*name)
    producers.wait_for(MORE)
    producers.stop()

    assert letters(house) == 5
    client.good("POST", "/lane/waiting/webhook/resume")
    check(house, producers, receiver)
    waited = [one.id for one in receiver.received() if one.path == "/waiting"]
    assert waited == kept
