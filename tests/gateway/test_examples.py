"""What the README and the manual show is run as it is written: a page in a browser, a script."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from evoflask.dev.process import Process
from tests.conftest import ROOT, missing
from tests.gateway.conftest import MakeHouse, Tenant, make_tenant
from tests.system.house import API_KEY, House, message

README = ROOT / "README.md"
MANUAL = ROOT / "docs" / "sinks.md"
WaitFor = Callable[..., Any]


def example(path: Path, fence: str, tenant: Tenant) -> str:
    """The code between fences that speaks of `/ws`, for this server, key and instance."""
    found = re.findall(rf"```{fence}\n(.*?)```", path.read_text(), re.DOTALL)
    (code,) = [each for each in found if "/ws" in each]
    code = code.replace("127.0.0.1:8080", f"127.0.0.1:{tenant.house.port}")
    return str(code.replace("KEY", API_KEY, 1).replace('"demo"', f'"{tenant.name}"'))


@pytest.fixture
def own(make_house: MakeHouse) -> Tenant:
    """An instance in a house that may be restarted."""
    return make_tenant(make_house())


class Page:
    """A page in a headless Chromium, looked at through its debugging port."""

    def __init__(self, program: str, path: Path, folder: Path) -> None:
        self._folder = folder
        self.process = Process(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                path.as_uri(),
            ],
            log=folder.with_suffix(".log"),
        ).start()

    def text(self) -> str:
        """What a person would read; "" while the browser starts."""
        port = self._folder / "DevToolsActivePort"
        if not port.exists() or not port.read_text().strip():
            return ""
        url = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        pages = [t for t in requests.get(url, timeout=25).json() if t["type"] == "page"]
        if not pages:
            return ""
        with connect(pages[0]["webSocketDebuggerUrl"]) as ws:
            words = {"expression": "document.body ? document.body.innerText : ''"}
            ws.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": words}))
            return str(json.loads(ws.recv(timeout=25))["result"]["result"]["value"])


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Callable[[str], Page]]:
    """Opens a page of that source."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        missing("there is no chromium on PATH")
    opened: list[Page] = []

    def make(source: str) -> Page:
        path = tmp_path / "events.html"
        path.write_text(source)
        opened.append(Page(str(program), path, tmp_path / f"browser{len(opened)}"))
        return opened[-1]

    yield make
    for page in opened:
        page.process.kill9()


def joined(house: House) -> bool:
    """Whether somebody reads the feed."""
    return any(c["name"] == "evoflask-feed" for c in house.raw.client_list())


@pytest.mark.timeout(120)
def test_the_page_of_the_readme_shows_events_in_a_browser_and_goes_on_after_a_restart(
    own: Tenant, open_page: Callable[[str], Page], wait_for: WaitFor
) -> None:
    page = open_page(example(README, "html", own))
    wait_for(lambda: joined(own.house), 60, "the page to join")
    own.emit(1)
    wait_for(lambda: '"n":1' in page.text(), 30, "the event in the page", 0.2)

    own.house.kill9("web")
    own.house.start("web")
    own.emit(2)

    wait_for(lambda: '"n":2' in page.text(), 30, "the next event in the page", 0.2)
    lines = page.text().strip().splitlines()
    assert lines == [
        f"MESSAGES_UPSERT {json.dumps(message(n), separators=(',', ':'))}" for n in (1, 2)
    ]


def run_script(source: str, folder: Path) -> Process:
    """A process that `with` starts and stops."""
    path = folder / "example.py"
    path.write_text(source)
    return Process([sys.executable, str(path)], cwd=folder, log=folder / "example.log")


def large(tenant: Tenant) -> None:
    """Emit an event of the size of a short video, base64 included."""
    tenant.emit_data(message(1, text="x" * 3_700_000))


def test_the_script_of_the_readme_prints_events_of_any_size(
    own: Tenant, tmp_path: Path, wait_for: WaitFor
) -> None:
    with run_script(example(README, "python", own), tmp_path) as script:
        wait_for(lambda: '"joined"' in script.output(), 20)
        large(own)
        own.emit(2)

        wait_for(lambda: script.output().count('"evolution-event"') == 2, 20)
        assert "Traceback" not in script.output()


def test_the_watcher_shows_events_of_any_size(
    own: Tenant, tmp_path: Path, wait_for: WaitFor
) -> None:
    config = {
        "instances": [own.name],
        "websocket": [f"ws://127.0.0.1:{own.house.port}/ws", API_KEY],
    }
    env = {**os.environ, "EVOFLASK_WATCH": json.dumps(config)}
    command = [sys.executable, "-m", "evoflask.dev.watch"]

    with Process(command, env=env, cwd=ROOT, log=tmp_path / "watch.log") as watcher:
        wait_for(lambda: joined(own.house), 20, "the watcher to join")
        large(own)
        own.emit(2)

        wait_for(lambda: watcher.output().count('"MESSAGES_UPSERT"') == 2, 20)
        assert watcher.output().count('"watching"') == 1


def test_the_receiver_of_the_manual_resumes_by_itself(
    own: Tenant, tmp_path: Path, wait_for: WaitFor
) -> None:
    with run_script(example(MANUAL, "python", own), tmp_path) as script:
        wait_for(lambda: joined(own.house), 20)
        wait_for(lambda: "joined" in script.output(), 20)
        own.emit(1)
        wait_for(lambda: script.output().count("new") == 1, 10)
    own.emit(2)

    with run_script(example(MANUAL, "python", own), tmp_path) as script:
        wait_for(lambda: script.output().count("new") == 2, 20)
        own.house.kill9("web")
        own.house.start("web")
        own.emit(3)
        wait_for(lambda: script.output().count("new") == 3, 20)
        assert "repeat" not in script.output()
