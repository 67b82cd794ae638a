"""Order and parallelism of a gateway's events, through all processes."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from typing import Any

import pytest

from benchmarks import shapes
from evoflask.dev.receiver import Received, Receiver
from tests.system.house import Client, House

HOLD = 0.5
"""Seconds until the receiver answers. Two that arrive closer together are under way together."""
SLOW = f"/slow/{HOLD * 1000:.0f}"
CHATS = [f"1555{n:04}@s.whatsapp.net" for n in range(20)]


def event(name: str, chat: str, n: int) -> dict[str, Any]:
    return {"event": name, "data": shapes.OF[name](chat, n)}


def point(house: House, client: Client, receiver: Receiver, **fields: object) -> None:
    """Create an instance whose lane is proven, so that several events may be under way."""
    client.create("a")
    client.set_webhook("a", receiver.url(SLOW), **fields)
    client.emit("a", "CREDS_UPDATE")
    house.wait_quiet()
    receiver.take()


def deliver(
    house: House, client: Client, receiver: Receiver, events: list[dict[str, Any]]
) -> list[Received]:
    answer = client.emit_many("a", events)
    assert answer.json()["accepted"] == len(events), answer.text
    receiver.wait_for(len(events), 90)
    house.wait_quiet()
    return receiver.take()


def side_by_side(arrived: list[Received]) -> int:
    """Return a lower bound of the events that were under way at one time."""
    times = sorted(one.at for one in arrived)
    return max(sum(at <= other < at + HOLD for other in times) for at in times)


def names(arrived: list[Received]) -> list[str]:
    return [json.loads(one.body)["event"] for one in arrived]


def test_an_update_and_a_delete_never_overtake_the_message_they_are_about(
    house: House, receiver: Receiver
) -> None:
    client, story = house.client(), ["MESSAGES_UPSERT", "MESSAGES_UPDATE", "MESSAGES_DELETE"]
    receiver.control(keep=True)
    point(house, client, receiver)

    arrived = deliver(
        house, client, receiver, [event(name, chat, 1) for chat in CHATS[:4] for name in story]
    )

    by_chat: dict[str, list[Received]] = defaultdict(list)
    for one in arrived:
        data = json.loads(one.body)["data"]
        by_chat[data.get("remoteJid") or data["key"]["remoteJid"]].append(one)
    assert set(by_chat) == set(CHATS[:4])
    for chat, told in by_chat.items():
        assert names(told) == story, chat
        gaps = [after.at - before.at for before, after in itertools.pairwise(told)]
        assert min(gaps) > HOLD * 0.9, chat
    assert side_by_side(arrived) >= 3


@pytest.mark.parametrize("name", ["MESSAGES_UPSERT", "MESSAGES_UPDATE", "CHATS_UPDATE"])
def test_events_of_twenty_chats_go_out_side_by_side(
    house: House, receiver: Receiver, name: str
) -> None:
    client = house.client()
    point(house, client, receiver)

    arrived = deliver(house, client, receiver, [event(name, chat, 1) for chat in CHATS])

    assert 4 <= side_by_side(arrived) <= 8


def test_events_about_the_instance_keep_their_order(house: House, receiver: Receiver) -> None:
    client = house.client()
    receiver.control(keep=True)
    point(house, client, receiver)
    story = ["CONNECTION_UPDATE", "QRCODE_UPDATED", "STATUS_INSTANCE", "LOGOUT_INSTANCE"]

    arrived = deliver(house, client, receiver, [event(name, "", 1) for name in story])

    assert names(arrived) == story
    assert side_by_side(arrived) == 1


def test_one_at_a_time_is_the_order_of_acceptance_whatever_the_chat(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    receiver.control(keep=True)
    point(house, client, receiver, concurrency=1)
    events = [event("MESSAGES_UPSERT", chat, n) for n, chat in enumerate("aabbca")]

    arrived = deliver(house, client, receiver, events)

    numbers = [int(json.loads(one.body)["data"]["key"]["id"], 16) for one in arrived]
    assert numbers == list(range(6))
    assert side_by_side(arrived) == 1


def test_without_an_order_events_of_one_chat_go_out_side_by_side(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    point(house, client, receiver, orderBy=None)

    arrived = deliver(
        house, client, receiver, [event("MESSAGES_UPDATE", "same", n) for n in range(12)]
    )

    assert side_by_side(arrived) >= 4
