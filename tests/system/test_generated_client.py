"""A client that openapi-python-client makes from `/openapi.json`, against a running server."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.conftest import missing
from tests.system.house import API_KEY, House

EMIT = """
import sys
from generated import AuthenticatedClient
from generated.api.events import events_emit, events_get
from generated.api.instances import instances_create, instances_connection_state
from generated.models import EventName, NewEvent, NewInstance

url, key = sys.argv[1:]
with AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True) as operator:
    created = instances_create.sync(client=operator, body=NewInstance.from_dict(
        {"instanceName": "made", "websocket": {"enabled": True}}))
with AuthenticatedClient(base_url=url, token=created.hash_,
                         raise_on_unexpected_status=True) as tenant:
    state = instances_connection_state.sync("made", client=tenant)
    one = NewEvent(event=EventName.MESSAGES_UPSERT, data={"n": 1})
    accepted = events_emit.sync("made", client=tenant, body=one)
    batch = events_emit.sync("made", client=tenant, body=[one, one])
    event = events_get.sync("made", accepted.id, client=tenant)
print(state.instance.state.value, accepted.event, batch.accepted, event.data["n"])
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Build a server of one web process."""
    folder = tmp_path_factory.mktemp("house")
    with House(folder, workers=0, clock=False) as made:
        yield made


@pytest.fixture(scope="module")
def generated(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate a client and return the folder that holds the package `generated`."""
    if importlib.util.find_spec("openapi_python_client") is None:
        missing("openapi-python-client is not installed: requirements-dev.txt has it")
    folder = tmp_path_factory.mktemp("generated")
    document = requests.get(
        f"http://127.0.0.1:{house.port}/openapi.json",
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=60,
    )
    (folder / "openapi.json").write_text(document.text)
    made = subprocess.run(
        [
            sys.executable, "-m", "openapi_python_client", "generate", "--meta", "none",
            "--path", "openapi.json", "--output-path", "generated", "--fail-on-warning",
        ],
        cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-8_000:] + made.stderr[-2_000:]
    assert "WARNING" not in made.stdout
    assert "Unable" not in made.stdout
    return folder


def _environment(folder: Path) -> dict[str, str]:
    """Let subprocesses find the generator's tools, and the package that it made."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(places)}


def test_a_client_is_generated_without_a_complaint_and_has_every_schema(generated: Path) -> None:
    document = json.loads((generated / "openapi.json").read_text())
    models = (generated / "generated" / "models" / "__init__.py").read_text()

    absent = [
        name
        for name, schema in document["components"]["schemas"].items()
        if name not in models and not {"anyOf", "oneOf"} & schema.keys()
    ]

    assert absent == []


def test_a_generated_client_creates_emits_and_reads_back(house: House, generated: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EMIT, f"http://127.0.0.1:{house.port}", API_KEY],
        env=_environment(generated), capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-4_000:]
    assert done.stdout.split() == ["open", "MESSAGES_UPSERT", "2", "1"]
