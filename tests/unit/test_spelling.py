"""Suggestions, and the sentences about names and events that use them."""

from __future__ import annotations

import time

import pytest

from evoflask import events
from evoflask.ids import NAME, NAME_RULE, name_fault
from evoflask.spelling import nearest, shown


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("MESSAGE_UPSERT", "MESSAGES_UPSERT"),
        ("messages.upser", "MESSAGES_UPSERT"),
        ("Message-Upsert", "MESSAGES_UPSERT"),
        ("group-participant.update", "GROUP_PARTICIPANTS_UPDATE"),
        ("CONECTION_UPDATE", "CONNECTION_UPDATE"),
        ("qrcode", "QRCODE_UPDATED"),
        ("calls", "CALL"),
        ("SENDMESSAGE", "SEND_MESSAGE"),
        ("presence", "PRESENCE_UPDATE"),
    ],
)
def test_the_refusal_of_an_event_names_the_nearest(word: str, name: str) -> None:
    assert events.unknown(word) == f'"{word}" is not an event; did you mean "{name}"?'


@pytest.mark.parametrize("word", ["NOPE", "", "x" * 61, "日本", "123456"])
def test_without_a_near_event_the_refusal_names_the_list(word: str) -> None:
    assert "did you mean" not in events.unknown(word)
    assert "EventName" in events.unknown(word)


@pytest.mark.parametrize("value", [1, None, [], {}, True])
def test_what_is_no_text_is_refused_by_its_type(value: object) -> None:
    assert events.unknown(value).startswith("Must be the name of an event")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("João 1", '"João 1" has "ã", " ".'),
        ("a/b", 'has "/".'),
        ("", "Is empty."),
        ("a" * 101, "is too long."),
        (".a", 'begins with ".".'),
        ("a\n", 'has "?".'),
        ("{p0}", 'has "{", "}".'),
    ],
)
def test_the_refusal_of_a_name_names_the_fault_and_the_rule(name: str, says: str) -> None:
    fault = name_fault(name)

    assert fault is not None
    assert says in fault
    assert NAME_RULE in fault


@pytest.mark.parametrize(("name", "offer"), [("João 1", "Joao-1"), ("a/b", "a-b"), ("_a", "a")])
def test_the_refusal_offers_a_name_that_would_do(name: str, offer: str) -> None:
    assert NAME.fullmatch(offer)
    assert (name_fault(name) or "").endswith(f'"{offer}" would do.')


@pytest.mark.parametrize("name", ["a", "A-1._", "0" * 100])
def test_a_good_name_has_no_fault(name: str) -> None:
    assert name_fault(name) is None


def test_a_hostile_word_is_short_printable_and_cheap() -> None:
    hostile = "\u202e\x00\x1b[31m" + "x" * 1_000_000
    began = time.process_time()

    said = [events.unknown(hostile), name_fault(hostile) or "", shown(hostile)]

    assert nearest(hostile, ["x"]) is None
    assert all(len(each) < 300 for each in said)
    assert all(each.isprintable() for each in said)
    assert time.process_time() - began < 2
