"""The audit: whether the books balance, and whether everything is where they say.

For every lane: routed + requeued = delivered + dead + discarded + waiting + dying. `deep` looks
at each entry too. It may run beside traffic: what belongs together is read in one moment
(look.lua, check.lua, inspect.lua, leaks.lua), and what the database and Redis say apart is
looked at again before it is told.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import peewee

from evoflask import db
from evoflask.models import DeadLetter, Instance, Subscription, epoch
from evoflask.outbox import LaneView, Outbox, inventory, verbs
from evoflask.outbox.inventory import Config
from evoflask.outbox.members import size_of
from evoflask.plurals import counted

ROWS = 200
"""Instances, lanes or letters that are read at once."""
AGAIN = 5
"""Looks at what differs between database and Redis before it counts."""
FINDINGS = 1000
"""Findings that are kept; more are only counted."""

LANE = {
    "dated twice": "It stands in due and in alone.",
    "undated": "Something waits and nobody will look at it: it stands neither in due nor in alone.",
    "dated too late": "It is looked at later than what waits on it is due.",
    "weight": "Its weight does not fit what waits.",
    "unaged": "Something waits and its age is not watched.",
    "no grave": "Something was given up and nobody will write its letter.",
}
"""The words of check.lua."""
MEMBER = {
    "tries": "It is remembered as failed and is not on the lane.",
    "twice": "It waits and was given up, both.",
    "entry": "Its entry is not on the outbox.",
    "to": "Its entry does not name this lane.",
    "size": "Its size is not its entry's.",
    "body": "Its body is missing.",
}
"""The words of inspect.lua."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not hold."""

    kind: str
    where: str
    words: str


@dataclass
class Report:
    """What was looked at, and what does not hold."""

    instances: int = 0
    lanes: int = 0
    entries: int = 0
    found: int = 0
    findings: list[Finding] = field(default_factory=list)
    """The first of them."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be compared because it changed all the while."""

    def tell(self, kind: str, where: str, words: str) -> None:
        finding = Finding(kind, where, words)
        if finding in self.findings:
            return  # a scan may see a key twice
        self.found += 1
        if len(self.findings) < FINDINGS:
            self.findings.append(finding)


def audit(outbox: Outbox, *, deep: bool = False, pause: float = 0.5) -> Report:
    """Look at everything. `pause`: seconds between looks at what is told apart.

    Raises `OutboxDown`, `DatabaseDown`.
    """
    return _Audit(outbox, pause).run(deep)


class _Audit:
    def __init__(self, outbox: Outbox, pause: float) -> None:
        self._outbox = outbox
        self._pause = pause
        self._report = Report()
        self._orphans: dict[int, set[str]] = defaultdict(set)
        """Lanes that no row knows, by partition."""

    def run(self, deep: bool) -> Report:
        for instances, lanes in _pages():
            self._instances(instances)
            self._lanes(lanes)
            if deep:
                for lane in lanes:
                    self._members(lane.instance.partition, lane.lane, _where(lane))
                for instance in instances:
                    self._leaks(instance)
                    self._stored(instance)
        for partition in self._outbox.partitions(1):
            self._strangers(partition)
            self._sums(partition)
            self._totals(partition)
            if deep:
                self._deep(partition)
        if deep:
            self._letters()
        return self._report

    # -- rows beside Redis -------------------------------------------------------------------

    def _instances(self, instances: Sequence[Instance]) -> None:
        self._report.instances += len(instances)
        for instance, fault in zip(instances, self._faults(instances), strict=True):
            if fault and (fault := self._still(lambda n=instance.id: self._fresh_fault(n))):  # type: ignore[misc]
                self._report.tell("instance", instance.name, fault)

    def _faults(self, instances: Sequence[Instance]) -> list[str | None]:
        known = inventory.configs(
            self._outbox, [(each.partition, each.outbox) for each in instances]
        )
        with db.translate():
            now = epoch()
        return [_instance_fault(*pair, now) for pair in zip(instances, known, strict=True)]

    def _fresh_fault(self, row: int) -> str | None:
        with db.translate():
            instance = Instance.get_or_none((Instance.id == row) & Instance.deleted_at.is_null())
        return self._faults([instance])[0] if instance else None

    def _still(self, look: Callable[[], str | None]) -> str | None:
        """The fault if it is there each time: what is changed at the moment is none."""
        fault = look()
        for _ in range(AGAIN - 1):
            if not fault:
                return None
            time.sleep(self._pause)
            fault = look()
        return fault

    # -- lanes -------------------------------------------------------------------------------

    def _lanes(self, lanes: Sequence[Subscription]) -> None:
        self._report.lanes += len(lanes)
        by_partition: dict[int, list[Subscription]] = defaultdict(list)
        for lane in lanes:
            by_partition[lane.instance.partition].append(lane)
        for partition, mine in by_partition.items():
            views = self._look(partition, [lane.lane for lane in mine])
            for lane, view in zip(mine, views, strict=True):
                if _lane_fault(lane, view) and (
                    fault := self._still(lambda n=lane.id: self._fresh_lane_fault(n))  # type: ignore[misc]
                ):
                    self._report.tell("lane", _where(lane), fault)
            self._check(partition, {lane.lane: _where(lane) for lane in mine}, views)

    def _fresh_lane_fault(self, row: int) -> str | None:
        query = Subscription.select(Subscription, Instance).join(Instance)
        with db.translate():
            lane = query.where((Subscription.id == row) & Instance.deleted_at.is_null()).first()
        if lane is None:
            return None
        return _lane_fault(lane, self._look(lane.instance.partition, [lane.lane])[0])

    def _check(self, partition: int, where: dict[str, str], views: Sequence[LaneView]) -> None:
        """What must hold at every moment."""
        for view in views:
            if view.off:
                books = ", ".join(f"{book} {view.count(book)}" for book in _BOOKS)
                self._report.tell(
                    "books",
                    where[view.lane],
                    f"They are off by {view.off}: {books}, waiting {view.waiting}, "
                    f"dying {view.dying}.",
                )
        names = list(where)
        for at in range(0, len(names), ROWS):
            piece = names[at : at + ROWS]
            answer = self._outbox.run(inventory.check(partition, piece))
            for name, words in zip(piece, answer, strict=True):
                for word in words:
                    self._report.tell("lane", where[name], LANE[word])

    def _look(self, partition: int, lanes: Sequence[str]) -> list[LaneView]:
        return [
            view
            for at in range(0, len(lanes), 50)
            for view in self._outbox.run(verbs.look(partition, lanes[at : at + 50]))
        ]

    # -- what no row knows -------------------------------------------------------------------

    def _strangers(self, partition: int) -> None:
        for lanes in inventory.named(self._outbox, partition, "lane"):
            for lane in _unknown_lanes(lanes):
                if self._still(lambda s=lane: self._stranger(partition, s)):  # type: ignore[misc]
                    view = self._look(partition, [lane])[0]
                    self._orphans[partition].add(lane)
                    self._report.tell(
                        "lane",
                        lane,
                        f"No row knows it; {counted(view.waiting, 'waits', 'wait')} on it, "
                        f"{counted(view.dying, 'was', 'were')} given up.",
                    )
                    self._check(partition, {lane: lane}, [view])
        for outboxes in inventory.named(self._outbox, partition, "config"):
            for i in _unknown_instances(outboxes):
                if self._still(lambda i=i: self._unknown_config(partition, i)):  # type: ignore[misc]
                    self._report.tell("instance", i, "No row knows it.")

    def _stranger(self, partition: int, lane: str) -> str | None:
        there = "sink" in self._look(partition, [lane])[0].facts
        return lane if there and _unknown_lanes([lane]) else None

    def _unknown_config(self, partition: int, i: str) -> str | None:
        config = inventory.configs(self._outbox, [(partition, i)])[0]
        if config is None or config.gone:
            return None
        return i if _unknown_instances([i]) else None

    # -- sums --------------------------------------------------------------------------------

    def _sums(self, partition: int) -> None:
        for kind, read, what in _SUMS:
            self._sum(partition, kind, read, what)

    def _sum(self, partition: int, kind: str, read: _ReadSum, what: str) -> None:
        for _ in range(AGAIN):
            found = read(self._outbox, partition)
            if found is None:
                continue
            kept, total = found
            if kept != total:
                words = f"The sum of {what} is kept as {counted(kept, 'byte')} and is {total}."
                self._report.tell(kind, f"partition {partition}", words)
            return
        self._report.unchecked.append(f"the sum of {what} of partition {partition}")

    def _totals(self, partition: int) -> None:
        """The counters of a sink against its lanes, if nothing moves meanwhile."""
        for _ in range(AGAIN):
            before = inventory.totals(self._outbox, partition)
            there = self._open_deliveries(partition)
            if inventory.totals(self._outbox, partition) != before:
                continue
            for sink in sorted({*there, *(name.split(":")[0] for name in before if ":" in name)}):
                summed = sum(sign * before.get(f"{sink}:{book}", 0) for book, sign in _SIGNS)
                if summed != there.get(sink, 0):
                    open_ = counted(summed, "delivery is", "deliveries are")
                    words = (
                        f"The counters of {sink} say that {open_} open, and its lanes have "
                        f"{there.get(sink, 0)}."
                    )
                    self._report.tell("totals", f"partition {partition}", words)
            return
        self._report.unchecked.append(f"the counters of partition {partition}")

    def _open_deliveries(self, partition: int) -> dict[str, int]:
        there: dict[str, int] = defaultdict(int)
        lanes = (lane.lane for _, page in _pages(Instance.partition == partition) for lane in page)
        for piece in _pieces([lanes, iter(self._orphans[partition])]):
            for view in self._look(partition, piece):
                there[view.facts.get("sink", "")] += view.waiting + view.dying
        there.pop("", None)
        return there

    # -- every entry -------------------------------------------------------------------------

    def _members(self, partition: int, lane: str, where: str) -> None:
        """Every delivery of a lane against the outbox, and the lane's weight."""
        before = self._look(partition, [lane])[0]
        weight = seen = 0
        for part in ("waiting", "dying", "tries"):
            for members in inventory.members(self._outbox, partition, lane, part):
                faults = self._outbox.run(inventory.inspect(partition, lane, members))
                for member, word in faults:
                    self._report.tell("delivery", f"{where} {member}", MEMBER[word])
                if part == "waiting":
                    weight += sum(size_of(member) for member in members)
                if part != "tries":
                    seen += len(members)
        self._report.entries += seen
        after = self._look(partition, [lane])[0]
        # A scan may have seen a member twice; then nothing is said of the sum.
        if _same(before, after) and seen == after.waiting + after.dying and weight != after.weight:
            words = f"Its weight is kept as {counted(after.weight, 'byte')} and is {weight}."
            self._report.tell("lane", where, words)

    def _leaks(self, instance: Instance) -> None:
        """Every entry past retention must be on a lane, and the others must be as many as were
        counted."""
        partition, i, after = instance.partition, instance.outbox, "-"
        passed, first = 0, None
        while True:
            page = self._outbox.run(inventory.leaks(partition, i, after))
            first = first or page
            passed += page.looked
            for entry in page.leaked:
                words = "It is past retention, on no lane, and still on the outbox."
                self._report.tell("entry", f"{instance.name} {entry}", words)
            if page.looked < inventory.PAGE:
                break
            after = page.last
        steady = (first.entries, first.edge, first.kept) == (page.entries, page.edge, page.kept)
        if steady and page.entries - passed != page.kept:
            kept = counted(page.kept, "entry is", "entries are")
            there = counted(page.entries - passed, "is", "are")
            words = f"{kept} counted within retention, and {there} there."
            self._report.tell("outbox", instance.name, words)

    def _stored(self, instance: Instance) -> None:
        """The bytes of an outbox, and the fingerprints of its ids."""
        partition, i = instance.partition, instance.outbox

        def wrong() -> str | None:
            found = inventory.stored(self._outbox, partition, i)
            if found is None or found[0] == found[1]:
                return None
            kept = counted(found[0], "byte")
            return f"Its outbox is kept as {kept} and has {found[1]}; the clock recounts."

        if words := self._still(wrong):
            self._report.tell("stored", instance.name, words)
        alone, bare = inventory.unmatched_ids(self._outbox, partition, i)
        if alone or bare:
            prints = counted(alone, "fingerprint has", "fingerprints have")
            ids = counted(bare, "id has", "ids have")
            words = f"{prints} no id, and {ids} no fingerprint."
            self._report.tell("ids", instance.name, words)

    def _left_over(self, partition: int) -> None:
        """Keys of instances that were deleted."""
        pages = [
            inventory.named(self._outbox, partition, each) for each in inventory.OF_AN_INSTANCE
        ]
        for page in itertools.chain(*pages, inventory.storing_instances(self._outbox, partition)):
            for i in page:
                if left := self._still(lambda i=i: self._left(partition, i)):  # type: ignore[misc]
                    self._report.tell("instance", i, f"It was deleted, and Redis has its {left}.")

    def _left(self, partition: int, i: str) -> str | None:
        return ", ".join(inventory.left_over(self._outbox, partition, i)) or None

    def _deep(self, partition: int) -> None:
        self._left_over(partition)
        for lane in self._orphans[partition]:
            self._members(partition, lane, lane)
        for names in inventory.named(self._outbox, partition, "body"):
            for name in names:
                i, _, entry = name.partition(":")
                if not inventory.entry_exists(
                    self._outbox, partition, i, entry
                ) and inventory.body_exists(self._outbox, partition, i, entry):
                    self._report.tell("body", name, "Its entry is gone.")

    # -- letters -----------------------------------------------------------------------------

    def _letters(self) -> None:
        """A letter's delivery ended, so it waits nowhere; and letters go with their instance."""
        for letters in _letter_pages():
            known = _partitions({letter.instance_id for letter in letters})
            for letter in letters:
                if letter.instance_id not in known and _is_there(letter):
                    words = "Its instance is gone."
                    self._report.tell("letter", str(letter.id), words)
            mine = [letter for letter in letters if letter.instance_id in known]
            places = [(known[each.instance_id], each.lane, each.entry) for each in mine]
            for letter, waits in zip(mine, inventory.waits(self._outbox, places), strict=True):
                if waits:
                    words = "Its delivery still waits on the lane."
                    self._report.tell("letter", str(letter.id), words)


_SIGNS = (("routed", 1), ("requeued", 1), ("delivered", -1), ("dead", -1), ("discarded", -1))
_BOOKS = [book for book, _ in _SIGNS]
_ReadSum = Callable[[Outbox, int], tuple[int, int] | None]
_SUMS: tuple[tuple[str, _ReadSum, str], ...] = (
    ("weighing", inventory.weighing, "weights"),
    ("storing", inventory.storing, "stored bytes"),
)


def _same(one: LaneView, other: LaneView) -> bool:
    """Nothing came or left between the two."""
    return (one.waiting, one.dying, *map(one.count, _BOOKS)) == (
        other.waiting,
        other.dying,
        *map(other.count, _BOOKS),
    )


def _instance_fault(instance: Instance, config: Config | None, now: str) -> str | None:
    if config is None:
        return "Redis does not know it."
    if config.gone:
        return "Redis counts it as deleted."
    if (config.revision, config.epoch) != (instance.revision, now):
        return (
            f"Redis has revision {config.revision} of epoch {config.epoch}, the database has "
            f"{instance.revision} of {now}."
        )
    return None


def _where(lane: Subscription) -> str:
    return f"{lane.instance.name}/{lane.name}"


def _lane_fault(lane: Subscription, view: LaneView) -> str | None:
    """What the row and Redis say apart. Redis notes flags as `1` and `0`."""
    if "sink" not in view.facts:
        return "Redis does not know it."
    told = (lane.enabled, lane.stopped, lane.on_failure == "wait")
    knows = tuple(view.facts.get(flag) == "1" for flag in ("on", "stop", "wait"))
    if knows != told:
        return f"Enabled, stopped, wait: Redis has {knows}, the database {told}."
    return None


# -- rows, a page at a time -------------------------------------------------------------------


def _pages(where: Any = None) -> Iterator[tuple[list[Instance], list[Subscription]]]:
    """Live instances, and their lanes."""
    last = 0
    while True:
        live = (Instance.id > last) & Instance.deleted_at.is_null()
        page = Instance.select().where(live if where is None else live & where)
        with db.translate():
            instances = list(page.order_by(Instance.id).limit(ROWS))
            if not instances:
                return
            mine = Subscription.instance.in_(instances) & (Subscription.sink != "websocket")
            query = Subscription.select(Subscription, Instance).join(Instance).where(mine)
            lanes = list(query.order_by(Subscription.id))
        yield instances, lanes
        last = instances[-1].id


def _unknown_lanes(lanes: Sequence[str]) -> list[str]:
    """Those of which there is no row."""
    known = _known(Subscription.lane, lanes)
    return [lane for lane in lanes if lane not in known]


def _unknown_instances(outboxes: Sequence[str]) -> list[str]:
    """The same for instances; a tombstone is a row."""
    known = _known(Instance.outbox, outboxes)
    return [i for i in outboxes if i not in known]


def _known(column: Any, values: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for at in range(0, len(values), ROWS):
        query: Any = column.model.select(column).where(column.in_(list(values[at : at + ROWS])))
        with db.translate():
            found |= {row[0] for row in query.tuples()}
    return found


def _letter_pages() -> Iterator[list[DeadLetter]]:
    columns = (DeadLetter.id, DeadLetter.instance_id, DeadLetter.lane, DeadLetter.entry)
    last = 0
    while True:
        open_ = DeadLetter.requeued_at.is_null() & DeadLetter.discarded_at.is_null()
        query = DeadLetter.select(*columns).where(open_ & (DeadLetter.id > last))
        with db.translate():
            letters = list(query.order_by(DeadLetter.id).limit(ROWS))
        if not letters:
            return
        yield letters
        last = letters[-1].id


def _partitions(instances: set[int]) -> dict[int, int]:
    query: Any = Instance.select(Instance.id, Instance.partition)
    with db.translate():
        return dict(query.where(Instance.id.in_(list(instances))).tuples())


def _is_there(letter: DeadLetter) -> bool:
    with db.translate():
        return bool(DeadLetter.select(peewee.SQL("1")).where(DeadLetter.id == letter.id).exists())


def _pieces(sources: Sequence[Iterator[str]], n: int = 50) -> Iterator[list[str]]:
    piece: list[str] = []
    for source in sources:
        for each in source:
            piece.append(each)
            if len(piece) == n:
                yield piece
                piece = []
    if piece:
        yield piece
