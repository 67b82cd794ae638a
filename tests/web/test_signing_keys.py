"""Keys that webhooks are signed with: drawn on request, exchanged, and never shown again."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from evoflask import configuration, vault
from evoflask.models import Subscription
from evoflask.signing import ED25519, SigningKey, key_of, public_key
from tests.web.conftest import Dump, Request

PATH = "/subscription/a/webhook/secret"


def keys() -> list[SigningKey]:
    """As a worker has them."""
    row = Subscription.get(Subscription.sink == "webhook")
    target = configuration.read_target(row.lane)
    assert target is not None
    return list(target.keys)


def test_a_secret_is_drawn_shown_once_and_signs_from_now_on(call: Request, instance: str) -> None:
    drawn = call("POST", PATH, key="token-a")

    assert drawn.status_code == 200
    assert len(key_of(drawn.json["secret"])) == 32
    assert keys() == [SigningKey(drawn.json["secret"])]
    shown = call("GET", "/subscription/a/webhook")
    assert shown.json["secretSet"] is True
    assert drawn.json["secret"] not in shown.text + call("GET", "/audit-log").text


def test_the_one_before_signs_beside_it_for_as_long_as_was_asked(
    call: Request, instance: str
) -> None:
    first = call("POST", PATH).json["secret"]
    before = time.time()
    second = call("POST", PATH, {"kind": "symmetric", "graceSeconds": 100}).json["secret"]
    third = call("POST", PATH, {"graceSeconds": 0}).json["secret"]

    found = {key.text: key.until for key in keys()}

    assert found[third] is None
    assert 99 <= (found[first] or 0) - before <= 110
    assert (found.get(second) or 0) <= time.time()


def test_of_an_ed25519_key_only_the_public_part_is_shown(call: Request, instance: str) -> None:
    call("POST", PATH)
    drawn = call("POST", PATH, {"kind": "ed25519"})

    shown = call("GET", "/webhook/find/a")

    (private,) = [key for key in keys() if key.kind == ED25519]
    assert drawn.json == {"kind": "ed25519", "publicKey": public_key(private.text)}
    assert shown.json["publicKey"] == drawn.json["publicKey"]
    assert private.text not in shown.text
    assert len(keys()) == 2


def test_keys_of_a_kind_end_at_once_and_so_do_all(call: Request, instance: str) -> None:
    call("POST", PATH)
    call("POST", PATH)
    call("POST", PATH, {"kind": "ed25519"})

    one = call("DELETE", f"{PATH}?kind=symmetric")
    left = keys()
    all_ = call("DELETE", PATH)

    assert (one.status_code, all_.status_code) == (200, 200)
    assert [key.kind for key in left] == [ED25519]
    assert (one.json["secretSet"], all_.json["publicKey"], keys()) == (False, None, [])


def test_a_secret_that_is_set_replaces_the_old_ones_at_once(call: Request, instance: str) -> None:
    call("POST", PATH)
    call("POST", PATH)
    call("POST", PATH, {"kind": "ed25519"})
    own = "whsec_" + base64.b64encode(b"x" * 32).decode()

    call("POST", "/webhook/set/a", {"webhook": {"secret": own}})

    found = keys()
    assert found[0] == SigningKey(own)
    assert [key.kind for key in found[1:]] == [ED25519]


def test_what_was_read_can_be_sent_back_and_keeps_all_keys(call: Request, instance: str) -> None:
    call("POST", PATH)
    call("POST", PATH)
    call("POST", PATH, {"kind": "ed25519"})
    before = keys()

    row = call("GET", "/subscription/a/webhook").json
    changed = call("PUT", "/subscription/a/webhook", row)

    assert changed.status_code == 200
    assert keys() == before


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", PATH, {"kind": "rsa"}, 400),
        ("POST", PATH, {"graceSeconds": -1}, 400),
        ("POST", PATH, {"graceSeconds": 2_592_001}, 400),
        ("POST", PATH, {"graceSeconds": "soon"}, 400),
        ("POST", PATH, {"secret": "whsec_x"}, 400),
        ("DELETE", f"{PATH}?kind=rsa", None, 400),
        ("POST", "/subscription/a/nobody/secret", {}, 404),
        ("POST", "/subscription/a/live/secret", {}, 409),
        ("DELETE", "/subscription/a/live/secret", None, 409),
    ],
)
def test_what_cannot_be_changes_nothing(
    call: Request, instance: str, dump: Dump, method: str, path: str, body: Any, status: int
) -> None:
    call("POST", "/subscription/a", {"name": "live", "sink": "websocket", "enabled": False})
    before = dump()

    assert call(method, path, body).status_code == status
    assert dump() == before


@pytest.mark.parametrize("sink", ["rabbitmq", "nats", "sqs"])
def test_messages_to_a_broker_are_signed_too_and_a_change_keeps_the_keys(
    call: Request, instance: str, sink: str
) -> None:
    row = {"name": "queue", "sink": sink, "enabled": False}
    assert call("POST", "/subscription/a", row).json["secretSet"] is False
    drawn = call("POST", "/subscription/a/queue/secret").json["secret"]
    public = call("POST", "/subscription/a/queue/secret", {"kind": "ed25519"}).json["publicKey"]

    changed = call("PUT", "/subscription/a/queue", {"concurrency": 3}).json

    lane = configuration.get_subscription("a", "queue").lane
    target = configuration.read_target(lane)
    assert target is not None
    assert {key.kind: key.text for key in target.keys}["symmetric"] == drawn
    assert len(target.keys) == 2
    assert (changed["secretSet"], changed["publicKey"]) == (True, public)
    assert drawn not in call("GET", "/subscription/a").text


def test_the_row_holds_no_key_in_the_clear(call: Request, instance: str) -> None:
    secret = call("POST", PATH).json["secret"]
    call("POST", PATH)
    call("POST", PATH, {"kind": "ed25519"})

    row = Subscription.select().dicts().get()

    assert row["signing"].text.startswith(vault.PREFIX)
    assert secret not in str(row)
    assert "whs" not in str(row)
