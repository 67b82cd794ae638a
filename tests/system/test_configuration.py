"""Configuration and traffic at the same time, over several processes."""

from __future__ import annotations

import threading

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import House, Threads, message


def test_every_event_that_was_accepted_after_a_set_was_answered_is_routed_by_it(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(web=4)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"), events=["MESSAGES_UPSERT"])
    facts = Facts()
    emitters = Threads([lambda: emit(house, facts) for _ in range(4)])

    for step in range(60):
        wanted = bool(step % 2)
        events = ["MESSAGES_UPSERT", "CALL"] if wanted else ["MESSAGES_UPSERT"]
        facts.change(None)
        client.set_webhook("a", receiver.url("/a"), events=events)
        facts.change(wanted)
        seen = facts.checked
        wait_for(lambda seen=seen: facts.checked >= seen + 12 or not emitters.running, 20)
    facts.ended = True
    emitters.join()

    assert facts.wrong == []
    assert facts.checked >= 60 * 12
    house.wait_quiet()
    assert set(facts.routed) <= set(receiver.ids())
    assert not set(facts.unrouted) & set(receiver.ids())
    assert house.off() == {}


class Facts:
    """What holds for a CALL at the moment: routed, not routed, or (None) it is changing."""

    def __init__(self) -> None:
        self.ended = False
        self.checked = 0
        self.wrong: list[str] = []
        self.routed: list[str] = []
        self.unrouted: list[str] = []
        self._lock = threading.Lock()
        self._holds: tuple[int, bool | None] = (0, False)

    def change(self, wanted: bool | None) -> None:
        with self._lock:
            self._holds = (self._holds[0] + 1, wanted)

    @property
    def holds(self) -> tuple[int, bool | None]:
        return self._holds

    def note(
        self, before: tuple[int, bool | None], after: tuple[int, bool | None], id: str, routed: bool
    ) -> None:
        """An emit that began and ended under the same configuration must obey it."""
        with self._lock:
            (self.routed if routed else self.unrouted).append(id)
            if before == after and before[1] is not None:
                self.checked += 1
                if routed is not before[1]:
                    self.wrong.append(f"{id}: {routed} in {before}")


def emit(house: House, facts: Facts) -> None:
    # A connection a request: else each thread stays with one web process.
    n = 0
    while not facts.ended:
        client = house.client()
        for _ in range(2):
            before = facts.holds
            answer = client.emit("a", "CALL", data=message(n))
            after = facts.holds
            n += 1
            assert answer.status_code == 202, answer.text
            row = answer.json()
            facts.note(before, after, row["id"], row["subscriptions"] == ["webhook"])
        client.session.close()
