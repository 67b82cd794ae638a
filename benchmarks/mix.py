"""The mix of events that a WhatsApp gateway sends: synthetic bodies of real shapes and sizes.

Sizes and shares are those that a real Evolution API was seen to send, and how often each is fired
per message; there are no public figures of traffic. Nobody's name or number is in them.
"""

from __future__ import annotations

import base64
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson

from benchmarks import shapes

CHATS: Final = 40
"""Conversations an instance's events are spread over."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of event. `size`: bytes of its `data`, about; `share`: of a thousand."""

    event: str
    size: int
    share: int
    media: bool = False


MIX: Final = (
    Kind("MESSAGES_UPDATE", 230, 350),
    Kind("MESSAGES_UPSERT", 900, 250),
    Kind("CONTACTS_UPDATE", 470, 100),
    Kind("CHATS_UPSERT", 105, 100),
    Kind("PRESENCE_UPDATE", 114, 100),
    Kind("SEND_MESSAGE", 900, 50),
    Kind("MESSAGES_UPSERT", 3_100, 40),
    Kind("MESSAGES_UPSERT", 163_000, 10, media=True),
)
"""Of a thousand events."""
HISTORY: Final = Kind("MESSAGES_SET", 804_000, 0)
"""What comes once, when a phone is connected."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event to hand in. `data` is its JSON."""

    instance: str
    name: str
    id: str
    data: bytes

    @property
    def emit(self) -> bytes:
        """As it is posted."""
        return b'{"event":"%s","id":"%s","data":%s}' % (
            self.name.encode(),
            self.id.encode(),
            self.data,
        )

    @property
    def body(self) -> bytes:
        """As a receiver gets it, whoever delivers: what peers are given to send."""
        return b'{"event":"%s","instance":"%s","data":%s,"id":"%s"}' % (
            self.name.encode(),
            self.instance.encode(),
            self.data,
            self.id.encode(),
        )


def data(kind: Kind, n: int) -> bytes:
    """Return JSON in the event's own shape, another for each `n`, of about `kind.size` bytes."""
    made = shapes.OF[kind.event](f"{n % CHATS}@s.whatsapp.net", n)
    first = made[0] if isinstance(made, list) else made
    room = max(0, kind.size - len(orjson.dumps(made)))
    if kind.media:
        text = base64.b64encode(random.Random(n % 16).randbytes(room * 3 // 4)).decode()
        first["message"] = {"base64": text}
    elif "message" in first:
        first["message"] = {"conversation": "x" * room}
    elif "profilePicUrl" in first:
        first["profilePicUrl"] += "x" * room
    return orjson.dumps(made)


def kinds(seed: int) -> Iterator[Kind]:
    """The mix without end, each thousand in another order."""
    luck = random.Random(seed)
    thousand = [kind for kind in MIX for _ in range(kind.share)]
    while True:
        luck.shuffle(thousand)
        yield from thousand


def bodies(*, media: bool = True) -> list[bytes]:
    """The `data` of a thousand of the mix. Without media: what every broker takes."""
    made = (data(kind, n) for n, kind in zip(range(1000), kinds(1), strict=False))
    return [one for one in made if media or len(one) < 8_000]


def events(count: int, instances: list[str], seed: int = 1, run: str = "r") -> list[Event]:
    """So many of the mix, spread over the instances in turn. `run`: part of their ids, so that
    nobody takes them for repeats of another run."""
    homes = itertools.cycle(instances)
    return [
        Event(next(homes), kind.event, f"{run}-{n}", data(kind, n))
        for n, kind in zip(range(count), kinds(seed), strict=False)
    ]


def zipf(count: int, instances: list[str], seed: int = 1) -> list[str]:
    """Homes of so many events where the n-th instance has a share of 1/n."""
    weights = [1 / (n + 1) for n in range(len(instances))]
    return random.Random(seed).choices(instances, weights, k=count)
