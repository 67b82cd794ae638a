"""Refusals that say what to do: routes, methods, /ws by plain HTTP, addresses, the key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from evoflask import vault
from evoflask.errors import Misconfigured
from evoflask.net import guard
from tests.conftest import LOOPBACK
from tests.web.conftest import GLOBAL, Request


def sentence(answer: Any) -> str:
    (found,) = answer.json["response"]["message"]
    return str(found)


# -- routes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("GET", "/lanes", "GET /lane"),
        ("GET", "/health", "GET /healthz"),
        ("GET", "/dead-letter", "GET /deadletter"),
        ("GET", "/deadletters", "GET /deadletter"),
        ("GET", "/instances/fetchInstances", "GET /instance/fetchInstances"),
        ("GET", "/instance/fetchinstances", "GET /instance/fetchInstances"),
        ("GET", "/instance/fetch_instances", "GET /instance/fetchInstances"),
        ("POST", "/instance/create/a", None),
        ("POST", "/webhooks/set/a", "POST /webhook/set/<instance>"),
        ("POST", "/webhook/sett/a", "POST /webhook/set/<instance>"),
        ("POST", "/webhook/set", "POST /webhook/set/<instance>"),
        ("POST", "/event/emit", "POST /event/emit/<instance>"),
        ("POST", "/events/emit/a", "POST /event/emit/<instance>"),
        ("POST", "/subscriptions/a", "POST /subscription/<instance>"),
        ("POST", "/lane/a/webhook/pauze", "POST /lane/<instance>/<name>/pause"),
        ("POST", "/deadletter/requeueall", "POST /deadletter/requeue"),
        ("GET", "/socket.io/", "the websocket at /ws"),
        ("POST", "/kafka/set/a", None),
        ("GET", "/nope", None),
        ("GET", "/", None),
        ("GET", "/" + "a/" * 500, None),
        ("GET", "/" + "l" * 3000, None),
    ],
)
def test_an_unknown_route_suggests_the_nearest(
    client: FlaskClient, method: str, path: str, meant: str | None
) -> None:
    answer = client.open(path, method=method)

    assert answer.status_code == 404
    said = sentence(answer)
    assert said.startswith(f"Cannot {method} {path[:300]}")
    if meant is None:
        assert said == f"Cannot {method} {path[:300]}"
    else:
        assert f"Did you mean {meant}" in said


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("GET", "/event/emit/a", "Use POST."),
        ("GET", "/event/emit/nobody", "Use POST."),
        ("GET", "/event/set/a", "Use POST."),
        ("GET", "/webhook/set/a", "Use POST."),
        ("GET", "/instance/create", "Use POST."),
        ("POST", "/webhook/find/a", "Use GET."),
        ("GET", "/replay", "Use POST."),
        ("GET", "/lane/a/webhook/purge", "Use POST."),
        ("GET", "/deadletter/requeue", "Use POST."),
        ("POST", "/lane", "Use GET."),
        ("POST", "/instance/delete/a", "Use DELETE."),
        ("PUT", "/subscription/a", "Did you mean PUT /subscription/<instance>/<name>?"),
        ("DELETE", "/webhook/set/a", "Use POST."),
        ("POST", "/event/emti/a", "Did you mean POST /event/emit/<instance>?"),
        ("POST", "/healthz", "Use GET."),
    ],
)
@pytest.mark.parametrize("key", ["", "test-key-of-the-suite", "token-a"])
def test_a_wrong_method_is_405_with_the_right_one(
    client: FlaskClient, instance: str, method: str, path: str, says: str, key: str
) -> None:
    answer = client.open(path, method=method, headers={"apikey": key} if key else {})

    assert answer.status_code == 405
    assert sentence(answer).endswith(says)
    if "Use" in says:
        assert says.split()[1].strip(".") in answer.headers["Allow"]


def test_events_of_an_instance_that_is_called_emit_can_be_read(call: Request) -> None:
    body = {"instanceName": "emit", "token": "token-e", "websocket": {"enabled": True}}
    call("POST", "/instance/create", body)
    event = call("POST", "/event/emit/emit", {"event": "CALL", "data": 1, "id": "x"})

    own, other = (call("GET", "/event/emit/x", key=key) for key in ("token-e", "wrong"))
    absent = call("GET", "/event/emit/y")

    assert event.status_code == 202
    assert (own.status_code, other.status_code, absent.status_code) == (200, 405, 404)


@pytest.mark.parametrize("path", ["/lane/", "/webhook/find/a/", "/instance/fetchInstances/"])
def test_a_slash_at_the_end_changes_nothing(client: FlaskClient, instance: str, path: str) -> None:
    plain = client.get(path.rstrip("/"), headers=GLOBAL)
    slash = client.get(path, headers=GLOBAL)

    assert (slash.status_code, slash.data) == (200, plain.data)


def test_an_emit_with_a_slash_at_the_end_is_an_emit(call: Request, instance: str) -> None:
    assert call("POST", "/event/emit/a/", {"event": "CALL", "data": 1}).status_code == 202


def test_the_dashboard_keeps_its_slash(client: FlaskClient) -> None:
    assert client.get("/rq").status_code in (301, 302, 303, 308)


# -- the websocket --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "A" * 22 + "=="},
        {"Upgrade": "h2c"},
        {"Upgrade": "websocket", "Sec-WebSocket-Version": "8"},
    ],
)
def test_plain_http_to_the_websocket_is_400_and_says_how(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    answer = client.get("/ws", headers=GLOBAL | headers)

    assert answer.status_code == 400
    assert "websocket" in sentence(answer)
    assert "ws://<host>/ws?apikey=<key>" in sentence(answer)
    assert "Upgrade and Connection" in sentence(answer)


def test_a_handshake_at_another_path_names_the_right_one(client: FlaskClient) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}

    answer = client.get("/lane", headers=GLOBAL | upgrade)

    assert answer.status_code == 400
    assert sentence(answer) == "There is no websocket at /lane. Open /ws."


# -- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "hinted"),
    [
        ("10.0.0.1", True),
        ("192.168.1.5", True),
        ("172.17.0.1", True),
        ("100.64.0.1", True),
        ("[fc00::1]", True),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("0x7f.1", False),
    ],
)
def test_a_private_address_names_the_setting_that_allows_it(
    call: Request, instance: str, host: str, hinted: bool
) -> None:
    answer = call("POST", "/webhook/set/a", {"webhook": {"url": f"http://{host}/hook"}})

    assert answer.status_code == 400
    assert sentence(answer).startswith("webhook.url: Must not be reached: ")
    assert ("WEBHOOK_ALLOW_NETWORKS" in sentence(answer)) == hinted


def test_the_hint_is_for_names_that_stand_for_private_addresses_too() -> None:
    assert "WEBHOOK_ALLOW_NETWORKS" in guard.hint("its name stands for an address that is private")
    assert guard.hint("metadata service") == ""
    assert guard.allowed("127.0.0.1", LOOPBACK) is None


# -- the key that seals ---------------------------------------------------------------------


def test_a_command_without_a_key_points_at_the_home_and_makes_no_second_key(
    root: Path, tmp_path: Path
) -> None:
    env = {"PATH": "/usr/bin:/bin", "EVOFLASK_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flask", "--app", "app", "deadletters", "list"]

    said = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300)

    assert said.returncode == 1
    assert f"EVOFLASK_HOME ({tmp_path}) holds no key" in said.stderr
    assert "as it is set where evoflask runs already" in said.stderr
    assert "urlsafe_b64encode" not in said.stderr
    assert "python" not in said.stderr.lower()
    assert not (tmp_path / vault.FILE).exists()


def test_a_key_file_that_cannot_be_read_names_it_and_says_who_may(tmp_path: Path) -> None:
    (tmp_path / vault.FILE).mkdir()

    class Keys:
        encryption_key = ()
        home = tmp_path

    with pytest.raises(Misconfigured, match=r"cannot be read\. Run this as the user"):
        vault.unlock(Keys())
