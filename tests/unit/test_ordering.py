"""Order keys: which events keep their order, by the shapes that gateways send."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks import shapes
from evoflask import envelope, events, ordering
from evoflask.envelope import Event
from evoflask.ordering import CONVERSATION

CHAT = "15550123@s.whatsapp.net"
KEY = f'"{CHAT}"'.encode()
HALF, WHOLE = b"\\ud83d", b"\\ud83d\\ude00"
"""Half of an emoji, as an escape."""
LID = "90012345@lid"
OTHER_LID = "90099999@lid"
GROUP = "120363000000000000@g.us"

SHARED = None
"""The key of events about the instance."""
OF_THE_INSTANCE = {
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "QRCODE_UPDATED",
    "CONNECTION_UPDATE",
    "STATUS_INSTANCE",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
}
BY_NAME = {
    "APPLICATION_STARTUP",
    "LABELS_EDIT",
    "CREDS_UPDATE",
    "MESSAGING_HISTORY_SET",
    "MESSAGES_SET",
    "CONTACTS_SET",
    "CHATS_SET",
}
"""Events that name no chat, or many."""


def event(name: str, data: Any, **fields: Any) -> Event:
    """`data`: JSON as bytes, or a value."""
    body = data if isinstance(data, bytes) else orjson.dumps(data)
    meta = orjson.dumps(fields)
    return Event("id-1", False, name, body, meta, True, None)


def key(name: str, data: Any, order_by: ordering.OrderBy = CONVERSATION) -> bytes | None:
    return ordering.compiled(order_by, 8).key(event(name, data))


# -- by conversation ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", events.NAMES)
def test_each_event_of_the_catalogue_is_ordered_by_its_chat_or_the_instance_or_its_name(
    name: str,
) -> None:
    found = key(name, shapes.OF[name](CHAT, 7))

    if name in OF_THE_INSTANCE:
        assert found is SHARED
    elif name in BY_NAME:
        assert found == name.encode()
    else:
        assert found == KEY


def test_every_event_of_the_catalogue_has_a_shape() -> None:
    assert set(shapes.OF) == set(events.NAMES)


@pytest.mark.parametrize(
    "name", ["MESSAGES_UPDATE", "MESSAGES_DELETE", "MESSAGES_EDITED", "SEND_MESSAGE_UPDATE"]
)
def test_a_change_of_a_message_has_the_key_of_the_message(name: str) -> None:
    message = key("MESSAGES_UPSERT", shapes.message(CHAT, 1))

    assert key(name, shapes.OF[name](CHAT, 1)) == message


@pytest.mark.parametrize(
    ("name", "data"),
    [
        # A device of a chat is the chat.
        ("MESSAGES_UPDATE", {"remoteJid": "15550123:12@s.whatsapp.net"}),
        ("CALL", {"from": "15550123:0@s.whatsapp.net"}),
        # The phone number goes before a @lid, wherever it is.
        ("MESSAGES_UPSERT", {"key": {"remoteJid": LID, "remoteJidAlt": CHAT}}),
        ("MESSAGES_UPSERT", {"key": {"remoteJid": CHAT, "remoteJidAlt": LID}}),
        ("MESSAGES_UPSERT", {"key": {"remoteJidAlt": CHAT}}),
        ("MESSAGES_UPSERT", {"key": {"remoteJid": LID}, "remoteJidAlt": CHAT}),
        ("MESSAGES_UPSERT", shapes.message_with_alt(CHAT, 1)),
        ("MESSAGES_UPSERT", {"key": {"remoteJid": LID, "remoteJidAlt": CHAT.replace("@", ":3@")}}),
        ("MESSAGES_UPDATE", {"remoteJid": LID, "remoteJidAlt": CHAT}),
        ("MESSAGES_UPDATE", {"remoteJid": CHAT, "remoteJidAlt": LID}),
        ("MESSAGES_UPDATE", {"remoteJid": LID, "key": {"remoteJid": CHAT}}),
        ("MESSAGES_UPDATE", {"key": {"remoteJid": LID, "remoteJidAlt": CHAT}}),
        ("MESSAGES_DELETE", {"key": {"remoteJid": CHAT}}),
        ("CHATS_UPDATE", [{"remoteJid": LID, "remoteJidAlt": CHAT}]),
        ("CONTACTS_UPDATE", {"remoteJid": LID, "remoteJidAlt": CHAT, "id": "cm0example"}),
        ("PRESENCE_UPDATE", {"id": LID, "idAlt": CHAT}),
        ("CALL", {"chatId": LID, "from": CHAT}),
        # Single objects and arrays of one.
        ("CONTACTS_UPDATE", {"remoteJid": CHAT}),
        ("CONTACTS_UPSERT", [{"id": CHAT}]),
        ("CHATS_UPSERT", {"id": CHAT}),
        ("CHATS_DELETE", [CHAT]),
        ("CHATS_DELETE", CHAT),
        ("CHATS_DELETE", [{"id": CHAT}]),
        ("GROUPS_UPDATE", {"id": CHAT}),
        ("MESSAGES_SET", [{"key": {"remoteJid": CHAT}}]),
        # The second place, where the first is missing or of no use.
        ("CALL", [{"from": CHAT}]),
        ("CALL", {"chatId": None, "from": CHAT}),
        ("LABELS_ASSOCIATION", {"chatId": "", "from": CHAT}),
        ("MESSAGES_UPDATE", {"remoteJid": 5, "key": {"remoteJid": CHAT}}),
        ("MESSAGES_UPDATE", {"remoteJid": CHAT, "key": "text"}),
        ("MESSAGES_UPDATE", {"remoteJid": CHAT, "key": None}),
        ("MESSAGES_UPDATE", [{"remoteJid": CHAT, "key": 7}]),
        ("MESSAGES_UPSERT", {"key": [1], "remoteJid": CHAT}),
        # Spellings of JSON.
        ("MESSAGES_UPSERT", b' {"key" : {"remoteJid":"15550123\\u0040s.whatsapp.net"} }'),
        ("CHATS_DELETE", b' [ \n "15550123@s.whatsapp.net" ] '),
        ("CHATS_UPSERT", b"[" + b" " * 100 + b'{"id":"15550123@s.whatsapp.net"}]'),
        ("MESSAGES_UPSERT", b'{"key":{"remoteJid":"x"},"key":{"remoteJid":%b}}' % KEY),
        # Half an emoji is JSON; it is beside the jid.
        ("MESSAGES_UPSERT", b'{"m":"%b","key":{"remoteJid":%b}}' % (HALF, KEY)),
        ("MESSAGES_UPSERT", b'{"m":"\\\\%b","key":{"remoteJid":%b}}' % (HALF + WHOLE + HALF, KEY)),
        ("CONTACTS_UPDATE", b'[{"m":"\\uDE00","remoteJid":%b}]' % KEY),
        ("MESSAGES_UPDATE", b'{"m":"%b","remoteJid":7,"key":{"remoteJid":%b}}' % (HALF, KEY)),
    ],
)  # fmt: skip
def test_spellings_of_one_chat_have_one_key(name: str, data: Any) -> None:
    assert key(name, data) == KEY


@pytest.mark.parametrize(
    ("data", "jid"),
    [
        ({"key": {"remoteJid": GROUP, "participant": LID, "participantAlt": CHAT}}, GROUP),
        ({"key": {"remoteJid": LID}}, LID),
        ({"key": {"remoteJid": LID, "remoteJidAlt": OTHER_LID}}, LID),
        ({"key": {"remoteJid": LID, "remoteJidAlt": "text"}}, LID),
        ({"key": {"remoteJid": "90012345:7@lid"}}, LID),
        ({"key": {"remoteJid": "status@broadcast"}}, "status@broadcast"),
        ({"key": {"remoteJid": "a:b@s.whatsapp.net"}}, "a:b@s.whatsapp.net"),
        ({"key": {"remoteJid": "no jid: 12"}}, "no jid: 12"),
        ({"key": {"remoteJid": 'x"y'}}, 'x"y'),
    ],
)
def test_a_jid_is_kept_but_for_its_device(data: Any, jid: str) -> None:
    assert key("MESSAGES_UPSERT", data) == f'"{jid}"'.encode()


WITHOUT_A_CHAT: list[Any] = [
    None, True, 7, 7.5, "", {}, [], [[]], [None], [7], [""], [{}], [CHAT, GROUP],
    [{"remoteJid": CHAT}, {"remoteJid": CHAT}],
    {"key": None}, {"key": {}}, {"key": []}, {"key": "text"}, {"key": {"remoteJid": None}},
    {"key": {"remoteJid": 15550123}, "remoteJid": 7, "id": 7, "chatId": [], "from": {}},
    {"key": {"remoteJid": {"key": {"remoteJid": CHAT}}}},
    {"remoteJid": [CHAT], "id": [CHAT], "chatId": [CHAT]},
    {"data": {"key": {"remoteJid": CHAT}}},
    b'{"key":' * 900 + b"1" + b"}" * 900,
    b"[" * 900 + b"]" * 900,
    b'{"key":{"remoteJid":' + b"[" * 900 + b"]" * 900 + b"}}",
    b'{"key":{"remoteJid":"\\ud83d"},"remoteJid":7,"id":7,"chatId":7,"from":7,"x":"\\ud83d"}',
    [{"key": {"remoteJid": CHAT}}] * 10_000,
    [CHAT] * 10_000,
    {str(n): n for n in range(10_000)},
]  # fmt: skip


@pytest.mark.parametrize("data", WITHOUT_A_CHAT, ids=lambda data: str(data)[:40])
def test_an_event_without_a_conversation_has_its_name_as_key(data: Any) -> None:
    for name in events.CONVERSATION:
        found = key(name, data)

        halves = isinstance(data, bytes) and HALF in data
        assert found == name.encode() or (halves and found == '"\u083d"'.encode())


@pytest.mark.parametrize("name", sorted(OF_THE_INSTANCE))
@pytest.mark.parametrize("data", [None, {"key": {"remoteJid": CHAT}}, {"id": CHAT}])
def test_events_about_the_instance_share_one_key_whatever_they_carry(name: str, data: Any) -> None:
    assert key(name, data) is SHARED


def test_a_huge_jid_and_a_huge_message_are_read_in_the_time_of_a_look() -> None:
    small = {"key": {"remoteJid": CHAT}, "message": {"base64": "x" * 3_000_000}}
    huge = {"key": {"remoteJid": "9" * 3_000_000 + "@lid", "remoteJidAlt": 7}, "remoteJid": {}}
    list_ = shapes.many(shapes.message, 10_000)(CHAT, 1)
    bodies = [orjson.dumps(one) for one in (small, huge, list_)]
    halves = b'{"m":"' + b"\\ud83d" * 500_000 + b'","key":{"remoteJid":"' + CHAT.encode() + b'"}}'

    for body in (*bodies, halves):
        began = time.process_time()
        found = key("MESSAGES_UPSERT", body)
        assert time.process_time() - began < 20 * _looked(body)
        assert found is not None


def _looked(body: bytes) -> float:
    """Return the seconds of CPU that Python's own parser takes, at least 0.01."""
    began = time.process_time()
    json.loads(body)
    return max(0.01, time.process_time() - began)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.sampled_from([CHAT, LID, GROUP, "15550123:12@s.whatsapp.net"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "key",
                    "remoteJid",
                    "remoteJidAlt",
                    "id",
                    "idAlt",
                    "chatId",
                    "from",
                    "fromAlt",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(
    st.sampled_from(events.NAMES), JSON, st.sampled_from([CONVERSATION, ["data.key"], ["data.x"]])
)
@example("MESSAGES_UPSERT", {"key": {"remoteJid": "\\ud800"}}, CONVERSATION)
def test_whatever_the_data_is_there_is_a_key_and_it_depends_on_the_values_alone(
    name: str, data: Any, order_by: Any
) -> None:
    plain = json.dumps(data, ensure_ascii=True).encode()
    spaced = json.dumps(data, ensure_ascii=True, indent=1).encode()

    found = key(name, plain, order_by)

    assert found is None or isinstance(found, bytes)
    if order_by == CONVERSATION:
        assert key(name, spaced) == found
    assert (found is None) <= (name in OF_THE_INSTANCE)


# -- by paths -----------------------------------------------------------------------------------

JID = "data.key.remoteJid"
PATHS: list[tuple[str, str, bytes | None]] = [
    ('{"key": {"remoteJid": "1@s"}}', JID, b'"1@s"'),
    ('{"x": [1, {"key": 2}], "key": {"b": 1, "remoteJid": "1@s"}}', JID, b'"1@s"'),
    ('{"key": {"remoteJid": "1\\u0040s"}}', JID, b'"1@s"'),
    ('{"key": {"remoteJid": "1:2@s"}}', JID, b'"1:2@s"'),
    ('{"key": {"remoteJid": 7}}', JID, b"7"),
    ('{"key": {"remoteJid": {"a": 1}}}', JID, b'{"a": 1}'),
    ('{"key": {"remoteJid": "\\ud83d"}}', JID, '"\u083d"'.encode()),
    ('{"text": "\\ud83d", "key": {"remoteJid": "1@s"}}', JID, b'"1@s"'),
    ('{"key": {"remoteJid": null}}', JID, None),
    ('{"key": {}}', JID, None),
    ('{"key": null}', JID, None),
    ('{"key": "1@s"}', JID, None),
    ('{"key": [1]}', JID, None),
    ("[]", JID, None),
    ("null", JID, None),
    ('"x"', JID, None),
    ('{"a b": 1}', "data.a b", b"1"),
    ('{"a": {"b": {"c": {"d": "x"}}}}', "data.a.b.c.d", b'"x"'),
    ('{"a": 1}', "data", b'{"a": 1}'),
    ("1", "event", b"CALL"),
    ("1", "sender", b"me"),
    ("1", "other.path", None),
    ('{"a": 1}', 'data.a"b', None),
]


@pytest.mark.parametrize(("data", "path", "value"), PATHS, ids=str)
def test_the_key_is_the_value_at_the_path_or_else_the_events_name(
    data: str, path: str, value: bytes | None
) -> None:
    found = ordering.compiled([path], 8).key(event("CALL", data.encode(), sender="me"))

    assert found == (b"CALL" if value is None else value)


@pytest.mark.parametrize("deep", [100, 300, 800])
def test_a_deep_value_with_an_escape_is_a_key(deep: int) -> None:
    data = b'{"key":' + b"[" * deep + b'"\\n"' + b"]" * deep + b"}"

    assert key("CALL", data, ["data.key"])


def test_paths_are_tried_in_turn() -> None:
    paths: ordering.OrderBy = ["data.payload.from", "data.Info.Chat", "data.n"]

    assert key("CALL", {"Info": {"Chat": "a"}, "n": 1}, paths) == b'"a"'
    assert key("CALL", {"payload": {"from": "b"}, "Info": {"Chat": "a"}}, paths) == b'"b"'
    assert key("CALL", {"payload": {"from": None}, "Info": "text", "n": 1}, paths) == b"1"
    assert key("CALL", {}, paths) == b"CALL"


def test_an_event_about_the_instance_has_the_value_at_a_path_before_the_shared_key() -> None:
    assert key("CONNECTION_UPDATE", {"instance": "a"}, ["data.instance"]) == b'"a"'
    assert key("CONNECTION_UPDATE", {}, ["data.instance"]) is SHARED


# -- no order, and a total one ------------------------------------------------------------------


def test_null_is_no_order_and_one_at_a_time_is_a_total_one() -> None:
    no_order, total = ordering.compiled(None, 8), ordering.compiled(None, 1)

    assert no_order.is_none
    assert not total.is_none
    assert total.key(event("CALL", {"from": CHAT})) is None
    assert not ordering.compiled(CONVERSATION, 1).is_none


# -- as a row stores it -------------------------------------------------------------------------


@pytest.mark.parametrize("order_by", [CONVERSATION, None, [JID], ["data.a"], ["data.a", "data.b"]])
def test_a_row_keeps_the_rule(order_by: ordering.OrderBy) -> None:
    assert ordering.of_row(*ordering.to_row(order_by)) == (order_by, False)


@pytest.mark.parametrize(
    ("order_by", "path"),
    [(CONVERSATION, JID), (None, None), ([JID], JID), (["data.a", "data.b"], "data.a")],
)
def test_the_release_before_reads_the_nearest_path(
    order_by: ordering.OrderBy, path: str | None
) -> None:
    assert ordering.to_row(order_by)[0] == path


@pytest.mark.parametrize(
    ("stored", "meant"),
    [(JID, (CONVERSATION, False)), (None, (None, True)), ("data.room", (["data.room"], False))],
)
def test_a_row_of_the_release_before_means_what_it_meant(
    stored: str | None, meant: tuple[ordering.OrderBy, bool]
) -> None:
    assert ordering.of_row(stored, None) == meant
    for order_by in ([*"ab"], ["data.c"]):  # changed by that release after ours wrote a rule
        assert ordering.of_row(stored, ordering.to_row(order_by)[1]) == meant


def test_a_parsed_event_has_all_that_a_key_is_made_of() -> None:
    parsed = envelope.parse(b'{"event":"call","data":{"from":"15550123:1@s.whatsapp.net"}}')

    assert ordering.compiled(CONVERSATION, 8).key(parsed) == KEY


# -- what is written of it ----------------------------------------------------------------------


def test_the_documentation_has_the_table_of_the_catalogue(root: Path) -> None:
    text = (root / "docs" / "sinks.md").read_text()
    section = text.partition("\n## Order\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+) \|$", section, re.M))

    assert rows == {name: _documented(name) for name in events.NAMES}


def _documented(name: str) -> str:
    if name in events.OF_THE_INSTANCE:
        return "the instance"
    paths = events.CONVERSATION.get(name)
    return ", ".join(f"`data.{path}`" for path in paths) if paths else "none"
