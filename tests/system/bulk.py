"""Many tenants at once, and their events, past the web process: rows and verbs directly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from evoflask import configuration, db, keyring, models
from evoflask.ids import event_id, random_id
from evoflask.models import Instance, Subscription
from evoflask.outbox import NewEntry, verbs
from evoflask.outbox.members import key_hash
from evoflask.settings import Settings
from tests.system.house import House

ROWS = 50
"""Rows of one statement."""
PIECE = 100
PIECE_BYTES = 1024 * 1024
"""Events and bytes of one append."""


class Tenants:
    """Instances of a house, each with one webhook, made in bulk: name → URL."""

    def __init__(self, house: House, urls: Mapping[str, str], *, enabled: bool = True) -> None:
        self._house = house
        self.outboxes = {name: random_id() for name in urls}
        self.lanes = {name: random_id() for name in urls}
        db.connect(Settings.from_env(house.env))
        names = list(urls)
        with db.writing():
            for at in range(0, len(names), ROWS):
                self._insert(names[at : at + ROWS], urls, enabled)
        configuration.push_all(house.outbox)

    def enable(self) -> None:
        """All of them, in one transaction; then Redis is told."""
        lanes = Subscription.lane.in_(list(self.lanes.values()))
        rows = Instance.outbox.in_(list(self.outboxes.values()))
        with db.writing():
            change = {"enabled": True, "version": Subscription.version + 1}
            Subscription.update(change).where(lanes).execute()
            revision = Instance.revision + 1
            Instance.update(revision=revision, pushed=revision).where(rows).execute()
        configuration.push_all(self._house.outbox)

    def fill(self, name: str, bodies: Iterable[tuple[str, bytes]]) -> list[str]:
        """Accept events, each (order key, data), some in one append; their ids."""
        revision = Instance.get(Instance.outbox == self.outboxes[name]).revision
        ids: list[str] = []
        piece: list[NewEntry] = []
        for key, data in bodies:
            piece.append(self._entry(name, key, data))
            if len(piece) == PIECE or sum(entry.size for entry in piece) > PIECE_BYTES:
                ids += self._append(name, revision, piece)
                piece = []
        return ids + self._append(name, revision, piece)

    def _append(self, name: str, revision: int, piece: list[NewEntry]) -> list[str]:
        call = verbs.append(0, self.outboxes[name], revision, models.epoch(), piece, verbs.Limits())
        assert self._house.outbox.run(call).status == "ok"
        return [entry.id for entry in piece]

    def _entry(self, name: str, key: str, data: bytes) -> NewEntry:
        to = ((self.lanes[name], key_hash(b'"%s"' % key.encode())),)
        return NewEntry(event_id(), False, "MESSAGES_UPSERT", b"{}", data, to)

    def _insert(self, names: Sequence[str], urls: Mapping[str, str], enabled: bool) -> None:
        Instance.insert_many(
            {
                "name": name,
                "outbox": self.outboxes[name],
                "token_sha256": keyring.digest(name),
                "integration": "EVOLUTION",
                "revision": 1,
                "pushed": 1,
            }
            for name in names
        ).execute()
        ids = {row.name: row.id for row in Instance.select().where(Instance.name.in_(names))}
        Subscription.insert_many(
            {
                "instance": ids[name],
                "name": "webhook",
                "sink": "webhook",
                "lane": self.lanes[name],
                "enabled": enabled,
                "format": "standard",
                "concurrency": 8,
                "order_by": "data.key.remoteJid",
                "on_failure": "pass",
                "timeout": 30.0,
                "settings": orjson.dumps(
                    {"url": urls[name], "headers": {}, "byEvents": False, "base64": False}
                ).decode(),
            }
            for name in names
        ).execute()
