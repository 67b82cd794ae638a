"""What became of an event: for each subscription whether it was routed there, and what then.

The answer is put together. The outbox says where the event was routed and what is still under
way. Letters say what was given up, the delivery log says what was tried. An event that no
subscription got is kept with the reasons. What none of them says is `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from evoflask import attempts, configuration, deadletters, lanes, retained, routing, unwanted
from evoflask.configuration import State
from evoflask.errors import NotFound
from evoflask.formats import utc
from evoflask.lanes import Lane
from evoflask.models import DeadLetter, DeliveryLog, Subscription
from evoflask.outbox import Outbox, entries, verbs
from evoflask.outbox.entries import in_order
from evoflask.outbox.members import entry_of
from evoflask.outbox.verbs import Fate
from evoflask.retained import Kept
from evoflask.routing import Why
from evoflask.unwanted import Reason, Unwanted

SHOWN = 20
"""Attempts of a subscription that are shown, the last ones."""


@dataclass(slots=True)
class Told:
    """What became of the event at one subscription.

    `state`: `skipped` (not routed there, `why` says for what reason), `live` (a websocket's
    clients read it), `waiting` (not tried yet), `retrying`, `dying` (given up, its letter comes
    in a moment), `dead` (a letter), `delivered`, `discarded` (its letter was), `settled` (over,
    and nothing says any more how), `unknown` (nothing says any more whether it was routed).
    """

    subscription: str | None
    """None: it was deleted, and nothing knows its name."""
    sink: str | None
    lane: str
    state: str = "unknown"
    why: str | None = None
    """A sentence, where the state alone does not say enough."""
    before: int | None = None
    """How many stand before it, while it waits."""
    next_try: float | None = None
    """When it is tried next, Unix seconds; None: as soon as its turn comes, or never."""
    lane_state: str | None = None
    tries: int = 0
    """Attempts so far."""
    letter: int | None = None
    reason: str | None = None
    code: str | None = None
    detail: str | None = None
    delivered_at: float | None = None
    attempts: list[DeliveryLog] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Explained:
    """What is known of an event."""

    id: str
    event: str
    instance: str
    at: float
    """When it was accepted, Unix seconds."""
    body: bytes | None
    """In the standard format; None: nothing has it any more."""
    told: Sequence[Told]
    why: str | None = None
    """Why no subscription got it; None: one did."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What was found."""

    state: State
    kept: Sequence[Kept]
    letters: Sequence[DeadLetter]
    attempts: Sequence[DeliveryLog]


def explain(
    outbox: Outbox, name: str, event_id: str, borrow: Callable[[int], None] = lambda _: None
) -> Explained:
    """Return what is known of an event. `borrow` gets the size of its body in bytes before the
    body is read, and may raise.

    Raises `NotFound` for an instance that does not exist, and for an event of which nothing
    is known; `OutboxDown`, `DatabaseDown`."""
    state = configuration.get(name)
    instance = state.instance
    letters = deadletters.of_event(instance.id, event_id)
    tried = attempts.of_event(instance.id, event_id)
    hints = {entry_of(each.entry) for each in letters} | {each.entry for each in tried}
    kept = retained.find(outbox, instance.partition, instance.outbox, event_id, hints)
    known = _Known(state, kept, letters, tried)
    if not (kept or letters or tried):
        missed = unwanted.find(outbox, instance.partition, instance.outbox, event_id)
        if missed is None:
            raise _unknown(outbox, state, event_id)
        return _explain_unwanted(state, event_id, missed)
    return Explained(
        id=event_id,
        event=_event(known),
        instance=name,
        at=_accepted(known),
        told=_told(outbox, known),
        body=retained.body(outbox, instance, kept, borrow),
    )


def _event(known: _Known) -> str:
    if known.kept:
        return known.kept[0].fields[b"event"].decode()
    rows: Sequence[DeadLetter | DeliveryLog] = known.letters or known.attempts
    return str(rows[0].event)


def _accepted(known: _Known) -> float:
    """Of the first acceptance that is known."""
    dates = [each.at for each in known.kept] + [each.at for each in known.letters]
    return min(dates + [each.queued_at for each in known.attempts])


# -- at each subscription -------------------------------------------------------------------


def _told(outbox: Outbox, known: _Known) -> list[Told]:
    newest: dict[str, tuple[Kept, str]] = {}
    for kept in reversed(known.kept):
        newest |= {lane: (kept, member) for lane, member in kept.lanes.items()}
    fates = _fates(outbox, known.state.instance.partition, newest)
    states = {
        lane.lane: lane
        for lane in lanes.every(outbox, [known.state.instance.id])
        if lane.lane in fates
    }
    found = []
    for row in known.state.subscriptions:
        told = Told(row.name, row.sink, row.lane)
        if row.sink == "websocket":
            _tell_websocket(told, known, row)
        else:
            copy, _ = newest.get(row.lane, (None, ""))
            _tell(told, known, fates.get(row.lane), states.get(row.lane), copy)
        if told.state == "unknown":
            _tell_routing(told, known, row)
        found.append(told)
    return found + _deleted(known, newest)


def _fates(
    outbox: Outbox, partition: int, newest: Mapping[str, tuple[Kept, str]]
) -> dict[str, Fate]:
    pairs = [(lane, member) for lane, (_, member) in newest.items()]
    if not pairs:
        return {}
    fates = outbox.run(verbs.fate(partition, pairs))
    return dict(zip(newest, fates, strict=True))


def _tell(
    told: Told, known: _Known, fate: Fate | None, lane: Lane | None, kept: Kept | None
) -> None:
    """`kept`: the newest entry that was routed to the lane."""
    tried = [each for each in known.attempts if each.lane == told.lane]
    told.attempts = tried[-SHOWN:]
    if fate is not None and (fate.next_try is not None or fate.dying):
        _tell_pending(told, fate, lane)
        if kept is not None and kept.requeued and not fate.dying:
            told.why = " ".join(filter(None, (told.why, _again(kept))))
    else:
        _tell_end(told, known, tried)
        if told.state == "unknown" and fate is not None:
            told.state = "settled"
            told.why = "It was delivered or discarded, and the delivery log does not have it."


def _again(kept: Kept) -> str:
    what = "replayed" if "replay" in kept.meta else "requeued"
    return f"It was {what} at {utc(kept.at)}; its tries count from then."


def _tell_pending(told: Told, fate: Fate, lane: Lane | None) -> None:
    told.tries = fate.tries
    if fate.dying:
        why = orjson.loads(fate.dying)
        told.state = "dying"
        told.reason, told.code, told.detail = why["reason"], why["code"], why["detail"]
        return
    told.before = fate.before
    told.lane_state = lane.state if lane else None
    told.state = "retrying" if fate.next_try else "waiting"
    told.next_try = fate.next_try or None
    if lane and told.lane_state == "paused":
        told.next_try = max(lane.paused_until or 0.0, fate.next_try or 0.0)
    told.why = _HELD_UP.get(told.lane_state or "")


_HELD_UP = {
    "disabled": "The subscription is disabled; its backlog is kept.",
    "stopped": "An operator paused the lane.",
    "paused": "The lane is paused: its destination fails.",
    "quarantined": "Workers died of this lane; it goes on alone, one event at a time.",
}


def _tell_end(told: Told, known: _Known, tried: Sequence[DeliveryLog]) -> None:
    """Fill in the end, by the latest of letter and attempts.

    `tries` counts from when the event last came onto the lane.
    """
    delivered = [each for each in tried if each.outcome == "delivered"]
    letter = next((each for each in reversed(known.letters) if each.lane == told.lane), None)
    told.tries = _tries(tried)
    if letter and not (letter.requeued_at or letter.discarded_at):
        told.state, told.letter = "dead", letter.id
    elif delivered:
        told.state, told.delivered_at = "delivered", delivered[-1].at + delivered[-1].seconds
        told.tries = delivered[-1].number
        return
    elif letter and letter.discarded_at:
        told.state = "discarded"
    elif letter:
        told.state = "settled"
        told.why = _ELSEWHERE if _is_elsewhere(known, letter) else _REQUEUED
        if tried and tried[-1].queued_at > letter.created_at:
            return  # tried again since: the letter says nothing of these tries
    elif tried:
        told.state = "settled"
        told.why = "It was tried; nothing says any more what came of it."
    if letter:
        told.tries = letter.tries
        told.reason, told.code = letter.reason, letter.code or None
        told.detail = letter.detail or None


_REQUEUED = "Its letter was requeued; nothing says any more what came of it."
_ELSEWHERE = "Its letter was requeued onto another subscription."


def _is_elsewhere(known: _Known, letter: DeadLetter) -> bool:
    """Return True if the outbox has a copy for another lane, requeued after the letter's death."""
    copies = (each for each in known.kept if each.requeued and "replay" not in each.meta)
    return any(each.at > letter.created_at and letter.lane not in each.lanes for each in copies)


def _tries(tried: Sequence[DeliveryLog]) -> int:
    """The number of the last try. A requeue or replay is another entry, whose tries begin at 1."""
    if not tried:
        return 0
    last = max((each.entry for each in tried), key=in_order)
    return max(each.number for each in tried if each.entry == last)


def _tell_websocket(told: Told, known: _Known, row: Subscription) -> None:
    if any(each.fields.get(b"ws") for each in known.kept):
        told.state = "live"
        told.why = "Clients read it from the outbox; none of them is asked whether it did."


# -- why it was not routed ------------------------------------------------------------------


def _tell_routing(told: Told, known: _Known, row: Subscription) -> None:
    """The configuration of that moment is not kept: today's says why, as far as it explains."""
    first = next((each for each in reversed(known.kept) if not each.requeued), None)
    if first is None:
        told.why = _COPIES if known.kept else "The event is not on the outbox any more."
        return
    told.state = "skipped"
    told.why = _why(first, row)


_COPIES = (
    "The outbox has only a copy that was requeued or replayed, for other subscriptions; nothing "
    "says any more where the event was routed at first."
)


def _why(kept: Kept, row: Subscription) -> str:
    if row.created_at > kept.at:
        return "The subscription was made after the event."
    meta = kept.meta
    rule = configuration.rule_of(row)
    event = kept.fields[b"event"].decode()
    verdict = routing.why(rule, event, meta.get("integration"), meta.get("local") is not False)
    changed = row.updated_at > kept.at
    if verdict is Why.ROUTED:
        return "The subscription did not want it then; it was changed since."
    words = _words(verdict, event, row.sink)
    return f"{words}, as it is configured now; it was changed since." if changed else f"{words}."


def _words(why: Why, event: str, sink: str) -> str:
    return {
        Why.DISABLED: "The subscription is disabled",
        Why.EVENTS: f"The subscription does not list {event}",
        Why.INTEGRATION: f"The emit's `integration` does not name {sink}",
        Why.LOCAL: "The emit said `local: false`",
    }[why]


def _deleted(known: _Known, lanes_: Iterable[str]) -> list[Told]:
    """Lanes that have no subscription any more."""
    there = {row.lane for row in known.state.subscriptions}
    rows: list[DeadLetter | DeliveryLog] = [*known.letters, *known.attempts]
    names = {each.lane: (each.subscription_name, each.sink) for each in rows}
    found = []
    for lane in dict.fromkeys([*lanes_, *names]):
        if lane in there:
            continue
        name, sink = names.get(lane, (None, None))
        told = Told(name, sink, lane)
        _tell(told, known, None, None, None)
        told.why = "The subscription was deleted."
        if told.state in ("unknown", "settled"):
            told.state = "settled"
            told.why += " Nothing says if the event was delivered before, or discarded with it."
        found.append(told)
    return found


# -- no subscription got it -----------------------------------------------------------------


def _explain_unwanted(state: State, event_id: str, missed: Unwanted) -> Explained:
    """With the reasons of the moment of the emit, which are kept."""
    rows = {row.lane: row for row in state.subscriptions}
    found = [_missed(missed, reason, rows.get(lane)) for lane, reason in missed.reasons.items()]
    for lane, row in rows.items():
        if lane not in missed.reasons:
            later = row.created_at > missed.at
            why = (
                "The subscription was made after the event." if later else "Its reason is not kept."
            )
            found.append(Told(row.name, row.sink, lane, "skipped", why))
    wanted = "No subscription wanted the event." if missed.reasons else _NO_SUBSCRIPTION
    return Explained(
        id=event_id,
        event=missed.event,
        instance=state.instance.name,
        at=missed.at,
        body=None,
        told=found,
        why=wanted,
    )


_NO_SUBSCRIPTION = "The instance had no subscription when the event was accepted."


def _missed(missed: Unwanted, reason: Reason, row: Subscription | None) -> Told:
    words = _words(reason.why, missed.event, reason.sink)
    if row is None:
        words += "; it was deleted since"
    elif row.updated_at > missed.at:
        words += ", as it was configured then; it was changed since"
    return Told(row.name if row else reason.name, reason.sink, reason.lane, "skipped", f"{words}.")


# -- what nobody knows ----------------------------------------------------------------------


def _unknown(outbox: Outbox, state: State, event_id: str) -> NotFound:
    """With both dates: since when events are kept, and since when attempts are."""
    instance = state.instance
    edge = entries.edge(outbox, instance.partition, instance.outbox)
    oldest = attempts.oldest()
    forgotten = (
        f"Events accepted until {utc(edge)} are forgotten unless they wait"
        if edge
        else "No event of this instance is forgotten yet"
    )
    kept = f"begins at {utc(oldest)}" if oldest else "is empty"
    return NotFound(
        f'The "{instance.name}" instance has no event "{event_id}" any more',
        "It was never accepted, or it is forgotten.",
        f"{forgotten}; the delivery log {kept}.",
    )
