"""Order keys from the request to the lane: reading, storing and using `orderBy`."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from evoflask import configuration, db
from evoflask.models import Subscription
from evoflask.outbox import Outbox
from evoflask.outbox.members import SHARED_KEY, key_hash, key_of
from tests.conftest import API_KEY
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

JID = "data.key.remoteJid"
CHAT = "15550123@s.whatsapp.net"


def emit(call: Request, name: str, data: Any) -> None:
    answer = call("POST", "/event/emit/a", {"event": name, "data": data})
    assert answer.status_code == 202, answer.json


def keys(outbox: Outbox) -> list[str]:
    """Return the keys of all waiting events, in order of acceptance."""
    lanes = list(outbox.redis.scan_iter("*:waiting:*"))
    return [key_of(m.decode()) for lane in lanes for m in outbox.redis.zrange(lane, 0, -1)]


def change(call: Request, **fields: Any) -> Any:
    answer = call("POST", "/webhook/set/a", {"webhook": {"enabled": True, "events": [], **fields}})
    assert answer.status_code == 201, answer.json
    return answer.json


def store_as_the_release_before(order_by: str | None, concurrency: int = 8) -> None:
    """Write a row as an older release does, without `order_rule`."""
    with db.writing():
        change = {"order_by": order_by, "concurrency": concurrency}
        Subscription.update(**change).execute()


@pytest.mark.parametrize(
    ("given", "answered"),
    [
        ("conversation", "conversation"),
        (JID, [JID]),
        ("data.room", ["data.room"]),
        (["data.payload.from", "data.Info.Chat"], ["data.payload.from", "data.Info.Chat"]),
        (["data.a", "data.b", "data.a"], ["data.a", "data.b"]),
        (["data." + "x" * 195] * 2 + ["data." + "y" * 195], ["data." + c * 195 for c in "xy"]),
        (None, None),
    ],
    ids=str,
)
def test_order_by_is_answered_as_the_conversation_a_list_of_paths_or_null(
    call: Request, instance: str, given: Any, answered: Any
) -> None:
    assert change(call)["orderBy"] == "conversation"

    assert change(call, orderBy=given)["orderBy"] == answered
    assert call("GET", "/webhook/find/a").json["orderBy"] == answered
    assert call("PUT", "/subscription/a/webhook", {"timeout": 9}).json["orderBy"] == answered


def test_by_conversation_a_change_of_a_message_has_the_key_of_the_message(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call)

    emit(call, "MESSAGES_UPSERT", {"key": {"remoteJid": CHAT}})
    emit(call, "MESSAGES_UPDATE", {"remoteJid": CHAT.replace("@", ":7@")})
    emit(call, "MESSAGES_DELETE", {"remoteJid": "90012345@lid", "remoteJidAlt": CHAT})
    emit(call, "MESSAGES_UPDATE", {"remoteJid": "other@s.whatsapp.net"})
    emit(call, "LABELS_EDIT", {})
    emit(call, "CREDS_UPDATE", {})
    emit(call, "CONNECTION_UPDATE", {"state": "open"})
    emit(call, "REMOVE_INSTANCE", None)

    chat, other = (key_hash(b'"%b"' % j.encode()) for j in (CHAT, "other@s.whatsapp.net"))
    names = [key_hash(name) for name in (b"LABELS_EDIT", b"CREDS_UPDATE")]
    assert keys(outbox) == [chat, chat, chat, other, *names, SHARED_KEY, SHARED_KEY]


def test_without_an_order_each_event_has_a_key_of_its_own(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call, orderBy=None)

    for name in ("MESSAGES_UPSERT", "MESSAGES_UPSERT", "CONNECTION_UPDATE", "CONNECTION_UPDATE"):
        emit(call, name, {"key": {"remoteJid": CHAT}})

    assert len(set(keys(outbox))) == 4


def test_without_an_order_and_one_at_a_time_all_events_have_one_key(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call, orderBy=None, concurrency=1)

    emit(call, "MESSAGES_UPSERT", {"key": {"remoteJid": CHAT}})
    emit(call, "CALL", {"from": "other"})

    assert keys(outbox) == [SHARED_KEY, SHARED_KEY]


def test_two_subscriptions_order_the_same_event_each_in_its_way(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call, orderBy="data.n")
    body = {"name": "b", "sink": "webhook", "enabled": True, "url": "https://example.com/b"}
    call("POST", "/subscription/a", body)

    emit(call, "MESSAGES_UPSERT", {"key": {"remoteJid": CHAT}, "n": 5})

    assert set(keys(outbox)) == {key_hash(b"5"), key_hash(b'"%b"' % CHAT.encode())}


@pytest.mark.parametrize(
    "data",
    ["null", "7", '"x"', "[]", "[" * 500 + "]" * 500, '{"key":' * 500 + "1" + "}" * 500,
     '{"remoteJid":7,"key":7}', '{"key":{"remoteJid":{"a":"\\\\n"}},"key":[]}',
     '{"remoteJid":"' + "9" * 300_000 + '"}', "[" + ",".join(['{"id":"a@s"}'] * 10_000) + "]"],
    ids=lambda data: data[:20],
)  # fmt: skip
@pytest.mark.parametrize("order_by", ["conversation", "data.key.remoteJid", "data", None])
def test_no_shape_of_data_is_too_odd_to_be_accepted(
    call: Request, client: FlaskClient, instance: str, data: str, order_by: Any
) -> None:
    change(call, orderBy=order_by)

    for name in ("MESSAGES_UPSERT", "MESSAGES_UPDATE", "CHATS_DELETE", "CONNECTION_UPDATE"):
        body = f'{{"event":"{name}","data":{data}}}'
        headers = {"Content-Type": "application/json", "apikey": API_KEY}
        answer = client.post("/event/emit/a", data=body, headers=headers)
        assert answer.status_code == 202, answer.json


# -- rows of the release before -----------------------------------------------------------------


def test_a_row_with_the_default_of_the_release_before_is_by_conversation(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call)
    store_as_the_release_before(JID)

    assert call("GET", "/webhook/find/a").json["orderBy"] == "conversation"


def test_a_null_of_the_release_before_is_one_event_at_a_time(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call)
    store_as_the_release_before(None, 8)
    call("PUT", "/subscription/a/webhook", {"timeout": 9})  # each process reads the row again

    row = call("GET", "/webhook/find/a").json
    emit(call, "MESSAGES_UPSERT", {"key": {"remoteJid": CHAT}})
    emit(call, "CALL", {"from": "other"})

    assert (row["orderBy"], row["concurrency"]) == (None, 1)
    (settings,) = configuration.read_lane_settings([Subscription.get().lane]).values()
    assert settings is not None
    assert settings.concurrency == 1
    assert keys(outbox) == [SHARED_KEY, SHARED_KEY]


def test_who_raises_the_concurrency_of_such_a_row_gets_no_order_as_null_says(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call)
    store_as_the_release_before(None, 8)

    row = call("PUT", "/subscription/a/webhook", {"concurrency": 4}).json
    emit(call, "CALL", {"from": CHAT})
    emit(call, "CALL", {"from": CHAT})

    assert (row["orderBy"], row["concurrency"]) == (None, 4)
    assert len(set(keys(outbox))) == 2


def test_a_path_of_the_release_before_is_a_list_of_one(
    call: Request, instance: str, outbox: Outbox
) -> None:
    change(call, orderBy=["data.a", "data.b"])
    store_as_the_release_before("data.room")  # changed there after ours wrote a rule
    call("PUT", "/subscription/a/webhook", {"timeout": 9})

    emit(call, "CALL", {"room": 1, "a": 2})
    emit(call, "CALL", {"a": 2})

    assert call("GET", "/webhook/find/a").json["orderBy"] == ["data.room"]
    assert keys(outbox) == [key_hash(b"1"), key_hash(b"CALL")]


def test_the_release_before_finds_a_path_of_its_own_in_every_row(
    call: Request, instance: str
) -> None:
    found = []
    for order_by in ("conversation", ["data.a", "data.b"], None):
        change(call, orderBy=order_by)
        found.append(Subscription.get().order_by)

    assert found == [JID, "data.a", None]
