"""Dead letters: listed, read, requeued in order, discarded; each tenant its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask

from evoflask import deadletters, models
from evoflask.deadletters import Filter
from evoflask.delivery.operator import Operator
from evoflask.errors import OutboxDown
from evoflask.manager import EventManager
from evoflask.models import DeadLetter
from evoflask.outbox import Ended, Outbox
from evoflask.outbox.entries import read
from evoflask.outbox.members import at_of, key_of
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

Die = Callable[..., None]


@pytest.fixture
def die(call: Request, outbox: Outbox) -> Die:
    """`die(3, instance="a")`: events that are given up, with their letters."""

    def run(n: int = 1, *, instance: str = "a", how: Any = steps.rejected, **event: Any) -> None:
        body = [{"event": "CALL", "data": {"n": each}, **event} for each in range(n)]
        answer = call("POST", f"/event/emit/{instance}", body)
        assert (answer.status_code, answer.json["accepted"]) == (202, n), answer.json
        assert steps.kill(outbox, how) == n

    return run


@pytest.fixture
def other(call: Request, instance: str) -> str:
    """A second tenant, `b`, with token `token-b`."""
    body = {"instanceName": "b", "token": "token-b", "webhook": {"url": "https://e.com"}}
    assert call("POST", "/instance/create", body).status_code == 201
    return "b"


@pytest.fixture
def manager(application: Flask) -> EventManager:
    found: EventManager = application.extensions["evoflask"].manager
    return found


def letters(call: Request, query: str = "", **how: Any) -> Any:
    answer = call("GET", f"/deadletter{query}", **how)
    assert answer.status_code == 200, answer.json
    return answer.json


def at_once(requeued: int, left: int) -> dict[str, int | None]:
    """The answer where no operation goes on."""
    return {"requeued": requeued, "left": left, "operation": None}


def books(call: Request) -> Any:
    return call("GET", "/lane?instance=a").json["lanes"][0]["books"]


def arriving(outbox: Outbox) -> list[tuple[dict[bytes, bytes], bytes]]:
    """What is delivered now: fields and body, in order."""
    arrived: list[Any] = []
    while lanes := steps.take(outbox):
        for held in lanes:
            arrived += read(outbox, 0, held.outbox, [member for member, _ in held.ids])
            steps.settle(outbox, held, steps.delivered)
    return arrived


# -- listing --------------------------------------------------------------------------------


def test_a_letter_says_what_was_given_up_and_why(call: Request, instance: str, die: Die) -> None:
    die(1, id="order-1")

    (letter,) = letters(call)["letters"]

    assert {name: letter[name] for name in ("instance", "subscription", "sink", "event")} == {
        "instance": "a",
        "subscription": "webhook",
        "sink": "webhook",
        "event": "CALL",
    }
    assert (letter["eventId"], letter["reason"], letter["code"]) == ("order-1", "rejected", "410")
    assert (letter["detail"], letter["tries"]) == ("gone for good", 1)
    assert letter["acceptedAt"] <= letter["deadAt"]
    assert "data" not in letter


def test_letters_are_counted_by_reason_and_come_newest_first_in_pages(
    call: Request, instance: str, die: Die
) -> None:
    die(3)
    die(2, how=steps.exhausted)

    seen, after = [], ""
    while after is not None:
        page = letters(call, f"?limit=2{f'&after={after}' if after else ''}")
        assert (page["total"], page["reasons"]) == (5, {"exhausted": 2, "rejected": 3})
        seen += [letter["id"] for letter in page["letters"]]
        after = page["next"]

    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("query", "n"),
    [
        ("", 5),
        ("?instance=a", 3),
        ("?instance=b", 2),
        ("?subscription=webhook", 5),
        ("?subscription=crm", 0),
        ("?sink=webhook", 5),
        ("?sink=nats", 0),
        ("?event=call", 5),
        ("?event=messages.upsert", 0),
        ("?reason=rejected", 3),
        ("?reason=exhausted", 2),
        ("?code=500", 2),
        ("?since=2020-01-01T00:00:00Z", 5),
        ("?since=4000000000", 0),
        ("?until=2020-01-01", 0),
        ("?text=gone", 3),
        ("?text=FAILED to", 2),
        ("?text=o%25", 0),
        ("?text=gone&instance=a", 3),
        ("?text=gone&instance=b", 0),
        ("?reason=rejected&instance=b", 0),
    ],
)
def test_each_filter_restricts(
    call: Request, instance: str, other: str, die: Die, query: str, n: int
) -> None:
    die(3)
    die(2, instance="b", how=steps.exhausted)

    assert letters(call, query)["total"] == n


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?limit=0", 400),
        ("?limit=x", 400),
        ("?after=-1", 400),
        ("?since=yesterday", 400),
        ("?until=1e40", 400),
        ("?event=NOPE", 400),
        ("?sink=fax", 400),
        ("?text=", 400),
        ("?reasn=x", 400),
        ("?instance=nope", 404),
        ("?sink=websocket", 409),
        ("?subscription=websocket&instance=a", 409),
        ("/999", 404),
        ("/0", 404),
        ("/x", 404),
        ("/99999999999999999999999", 404),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_said(
    call: Request, instance: str, query: str, status: int
) -> None:
    call("POST", "/websocket/set/a", {"enabled": False})

    answer = call("GET", f"/deadletter{query}")

    assert answer.status_code == status
    assert answer.json["response"]["message"]


def test_a_letter_s_body_is_the_caller_s_to_the_byte(
    call: Request, instance: str, application: Flask, outbox: Outbox
) -> None:
    data = b'{"n": 1.10, "big": 123456789012345678901234567890, "n": 2}'
    body = b'{"event": "CALL", "sender": "me", "data": ' + data + b"}"
    headers = {"apikey": "token-a", "Content-Type": "application/json"}
    client = application.test_client()
    assert client.post("/event/emit/a", data=body, headers=headers).status_code == 202
    steps.kill(outbox)

    answer = client.get(f"/deadletter/{letters(call)['letters'][0]['id']}", headers=headers)

    assert answer.mimetype == "application/json"
    assert b'"data":' + data + b"}" in answer.data
    assert json.loads(answer.data)["meta"] == {"sender": "me"}


# -- requeue --------------------------------------------------------------------------------


def test_requeue_delivers_the_event_again_with_its_id_and_its_time(
    call: Request, instance: str, outbox: Outbox, die: Die
) -> None:
    die(1, id="order-1", sender="me")
    (letter,) = letters(call)["letters"]

    answer = call("POST", f"/deadletter/{letter['id']}/requeue")

    assert (answer.status_code, answer.json) == (200, {"requeued": 1, "left": 0})
    ((fields, data),) = arriving(outbox)
    assert (fields[b"id"], fields[b"event"], data) == (b"order-1", b"CALL", b'{"n": 0}')
    meta = json.loads(fields[b"meta"])
    assert meta == {"sender": "me", "dateTime": letter["acceptedAt"]}
    assert books(call)["requeued"] == 1
    assert letters(call)["total"] == 0


def test_a_letter_is_requeued_once(call: Request, instance: str, die: Die) -> None:
    die(1)
    path = f"/deadletter/{letters(call)['letters'][0]['id']}"

    assert call("POST", f"{path}/requeue").status_code == 200
    assert call("POST", f"{path}/requeue").status_code == 404
    assert call("GET", path).status_code == 404
    assert books(call)["requeued"] == 1


def test_two_who_requeue_at_once_deliver_a_letter_once(
    call: Request, instance: str, manager: EventManager, outbox: Outbox, die: Die
) -> None:
    die(120)

    class Beside(EventManager):
        """While it appends, somebody else asks for the same."""

        def __init__(self) -> None:
            self.__dict__ = manager.__dict__

        def requeue(self, *args: Any) -> None:
            first = DeadLetter.select().order_by(DeadLetter.entry).first().id
            assert call("POST", f"/deadletter/{first}/requeue").status_code == 404
            deadletters.requeue_many(manager, Filter())
            super().requeue(*args)

    deadletters.requeue_many(Beside(), Filter())

    assert len({fields[b"id"] for fields, _ in arriving(outbox)}) == 120
    assert books(call)["requeued"] == 120


def test_requeued_events_keep_their_order_key(
    call: Request, instance: str, outbox: Outbox, die: Die
) -> None:
    die(1, data={"key": {"remoteJid": "chat"}})
    member = DeadLetter.get().entry

    call("POST", "/deadletter/requeue", {"all": True})

    (held,) = steps.take(outbox)
    assert key_of(held.ids[0][0]) == key_of(member)
    assert at_of(held.ids[0][0]) >= at_of(member)


def test_thousands_are_requeued_in_their_order_within_seconds(
    call: Request, instance: str, outbox: Outbox, die: Die, operator: Operator
) -> None:
    for _ in range(3):
        die(1000)
    expected = [row.event_id for row in DeadLetter.select().order_by(DeadLetter.entry)]
    began = time.monotonic()

    answer = call("POST", "/deadletter/requeue", {"instance": "a"})
    while operator.turn():
        pass

    assert answer.status_code in (200, 202)
    assert letters(call)["total"] == 0
    assert time.monotonic() - began < 10
    assert [fields[b"id"].decode() for fields, _ in arriving(outbox)] == expected
    assert books(call) == {
        "routed": 3000,
        "requeued": 3000,
        "delivered": 3000,
        "dead": 3000,
        "discarded": 0,
    }


def test_large_bodies_are_requeued_in_appends_of_bounded_size(
    call: Request, instance: str, outbox: Outbox, die: Die, operator: Operator
) -> None:
    for _ in range(3):
        die(1, data="x" * 3_000_000)

    assert call("POST", "/deadletter/requeue", {"all": True}).status_code in (200, 202)
    while operator.turn():
        pass

    assert [len(data) for _, data in arriving(outbox)] == [3_000_002] * 3


def test_the_letter_of_a_large_event_of_a_conversation_is_kept(
    call: Request, instance: str, die: Die
) -> None:
    die(1, data={"from": "15550123@s.whatsapp.net", "text": "x" * 1_100_000})

    assert letters(call)["total"] == 1


def test_a_limit_takes_the_oldest_and_tells_what_is_left(
    call: Request, instance: str, die: Die
) -> None:
    die(5)

    assert call("POST", "/deadletter/requeue", {"all": True, "limit": 2}).json == {
        "requeued": 2,
        "left": 3,
        "operation": None,
    }
    assert {
        row.event_id for row in DeadLetter.select().where(DeadLetter.requeued_at.is_null())
    } == {row.event_id for row in DeadLetter.select().order_by(DeadLetter.entry).offset(2)}


def test_a_letter_whose_subscription_is_gone_is_409_and_left(
    call: Request, instance: str, die: Die
) -> None:
    die(2)
    call("DELETE", "/subscription/a/webhook")
    call("POST", "/webhook/set/a", {"url": "https://e.com", "enabled": True})
    (first, _) = letters(call)["letters"]

    one = call("POST", f"/deadletter/{first['id']}/requeue")
    many = call("POST", "/deadletter/requeue", {"all": True})

    assert one.status_code == 409
    assert many.json == at_once(0, 2)
    assert books(call)["requeued"] == 0


def test_those_that_cannot_be_requeued_keep_none_of_the_others(
    call: Request, instance: str, outbox: Outbox
) -> None:
    crm = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://e.com"}
    call("POST", "/subscription/a", crm)
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    assert steps.kill(outbox) == 2
    call("DELETE", "/subscription/a/crm")

    assert call("POST", "/deadletter/requeue", {"all": True, "limit": 1}).json == {
        "requeued": 1,
        "left": 1,
        "operation": None,
    }
    assert call("POST", "/deadletter/requeue", {"all": True, "limit": 1}).json == {
        "requeued": 0,
        "left": 1,
        "operation": None,
    }


def test_a_letter_without_a_body_is_409(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    steps.end_all(outbox, steps.rejected)
    redis_client.delete(f"evo:{{p0}}:outbox:{models.Instance.get().outbox}")
    steps.bury(outbox)
    (letter,) = letters(call)["letters"]

    assert call("POST", f"/deadletter/{letter['id']}/requeue").status_code == 409
    assert call("POST", "/deadletter/requeue", {"all": True}).json == {
        "requeued": 0,
        "left": 1,
        "operation": None,
    }
    assert call("GET", f"/deadletter/{letter['id']}").json["data"] is None


def test_a_full_outbox_is_503_and_the_letters_stay(
    call: Request, instance: str, die: Die, redis_client: redis.Redis
) -> None:
    die(3)
    redis_client.config_set("maxmemory", redis_client.info("memory")["used_memory"] // 2)

    answer = call("POST", "/deadletter/requeue", {"all": True})

    assert answer.status_code == 503
    assert letters(call)["total"] == 3


class Breaks(EventManager):
    """The first pieces are appended, then Redis is gone."""

    def __init__(self, real: EventManager, pieces: int) -> None:
        self.__dict__ = real.__dict__
        self._pieces = pieces

    def requeue(self, *args: Any) -> None:
        if not self._pieces:
            raise OutboxDown("the outbox cannot be reached")
        self._pieces -= 1
        super().requeue(*args)


def test_what_was_requeued_before_a_failure_is_marked_and_told(
    call: Request, instance: str, manager: EventManager, die: Die
) -> None:
    die(250)

    done = deadletters.requeue_many(Breaks(manager, 2), Filter())

    assert (done.requeued, done.left) == (200, 50)
    assert isinstance(done.stopped, OutboxDown)
    assert letters(call)["total"] == 50
    with pytest.raises(OutboxDown):
        deadletters.requeue_many(Breaks(manager, 0), Filter())


def test_a_requeue_to_a_paused_lane_waits_there(
    call: Request, instance: str, outbox: Outbox, die: Die
) -> None:
    die(1)
    call("POST", "/lane/a/webhook/pause")

    call("POST", "/deadletter/requeue", {"all": True})

    assert steps.take(outbox) == []
    assert call("GET", "/lane").json["lanes"][0]["backlog"] == 1


# -- onto another subscription --------------------------------------------------------------


@pytest.fixture
def crm(call: Request, instance: str) -> str:
    """Another subscription of `a`, that wants no event by itself."""
    crm = {"name": "crm", "sink": "webhook", "enabled": True, "events": ["LOGOUT_INSTANCE"]}
    assert call("POST", "/subscription/a", crm | {"url": "https://e.com"}).status_code == 201
    return "crm"


def backlogs(call: Request) -> dict[str, int]:
    lanes = call("GET", "/lane?instance=a").json["lanes"]
    return {lane["subscription"]: lane["backlog"] for lane in lanes}


def test_letters_are_requeued_onto_another_subscription_in_their_order(
    call: Request, instance: str, crm: str, outbox: Outbox, die: Die
) -> None:
    die(5)
    expected = [row.event_id for row in DeadLetter.select().order_by(DeadLetter.entry)]
    one = DeadLetter.select().order_by(DeadLetter.entry).first().id

    first = call("POST", f"/deadletter/{one}/requeue", {"onto": "crm"})
    rest = call("POST", "/deadletter/requeue", {"instance": "a", "onto": "crm"})

    assert (first.status_code, rest.json) == (200, at_once(4, 0))
    assert backlogs(call) == {"webhook": 0, "crm": 5}
    assert [fields[b"id"].decode() for fields, _ in arriving(outbox)] == expected


def test_letters_of_a_deleted_subscription_go_onto_another_one(
    call: Request, instance: str, crm: str, die: Die
) -> None:
    die(3)
    call("DELETE", "/subscription/a/webhook")

    answer = call("POST", "/deadletter/requeue", {"all": True, "onto": "crm"}, key="token-a")

    assert answer.json == at_once(3, 0)
    assert backlogs(call) == {"crm": 3}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"instance": "a", "onto": "nope"}, "has no subscription"),
        ({"instance": "a", "onto": "websocket"}, "no lane"),
        ({"all": True, "onto": "crm"}, "Name the instance"),
    ],
)
def test_a_target_that_cannot_be_is_409_and_changes_nothing(
    call: Request, instance: str, crm: str, die: Die, dump: Any, body: Any, words: str
) -> None:
    call("POST", "/websocket/set/a", {"enabled": True})
    die(2)
    before = dump()

    answer = call("POST", "/deadletter/requeue", body)

    assert answer.status_code == 409
    assert words in answer.json["response"]["message"][0]
    assert dump() == before


def test_one_letter_goes_onto_no_subscription_of_another_instance(
    call: Request, instance: str, other: str, die: Die
) -> None:
    theirs = {"name": "theirs", "sink": "webhook", "enabled": True, "url": "https://e.com"}
    call("POST", "/subscription/b", theirs)
    die(1)
    letter = letters(call)["letters"][0]["id"]

    assert call("POST", f"/deadletter/{letter}/requeue", {"onto": "theirs"}).status_code == 409
    assert call("POST", f"/deadletter/{letter}/requeue", {"on": "theirs"}).status_code == 400
    assert letters(call)["total"] == 1


def test_a_dry_run_counts_and_changes_nothing(
    call: Request, instance: str, crm: str, die: Die, dump: Any
) -> None:
    die(3)
    die(2, how=steps.exhausted)
    before = dump()

    some = call("POST", "/deadletter/requeue", {"reason": "rejected", "dryRun": True})
    limited = call("POST", "/deadletter/requeue", {"all": True, "limit": 4, "dryRun": True})
    gone = call("POST", "/deadletter/discard", {"text": "gone", "dryRun": True})

    assert some.json == at_once(0, 3) | {"would": 3}
    assert limited.json == at_once(0, 5) | {"would": 4}
    assert gone.json == {"discarded": 0, "would": 3, "left": 3, "operation": None}
    assert dump() == before


def test_a_dry_run_leaves_out_what_cannot_be_requeued(
    call: Request, instance: str, crm: str, die: Die
) -> None:
    die(3)
    call("DELETE", "/subscription/a/webhook")

    alone = call("POST", "/deadletter/requeue", {"all": True, "dryRun": True})
    onto = call("POST", "/deadletter/requeue", {"dryRun": True, "instance": "a", "onto": "crm"})

    assert (alone.json["would"], onto.json["would"]) == (0, 3)


def test_what_is_done_by_hand_is_in_the_audit_log(call: Request, instance: str, die: Die) -> None:
    die(4)
    first, second, *_ = (row.id for row in DeadLetter.select())

    call("POST", f"/deadletter/{first}/requeue", key="token-a")
    call("DELETE", f"/deadletter/{second}")
    call("POST", "/deadletter/requeue", {"instance": "a", "limit": 1})
    call("POST", "/deadletter/discard", {"instance": "a", "reason": "rejected"})

    noted = [row for row in models.AuditLog.select() if row.action.startswith("deadletter.")]
    assert [(row.by, row.action, row.instance_name) for row in noted] == [
        ("instance:a", "deadletter.requeue", "a"),
        ("global", "deadletter.discard", "a"),
        ("global", "deadletter.requeue", "a"),
        ("global", "deadletter.discard", "a"),
    ]
    assert [row.facts.get("letter") for row in noted] == [first, second, None, None]
    assert [row.facts.get("done") for row in noted] == [None, None, 1, 1]
    assert noted[3].facts["wanted"] == {"instance": "a", "reason": "rejected"}


# -- discard --------------------------------------------------------------------------------


def test_discard_changes_no_book(call: Request, instance: str, die: Die) -> None:
    die(1)
    before = books(call)
    path = f"/deadletter/{letters(call)['letters'][0]['id']}"

    answer = call("DELETE", path)

    assert (answer.status_code, answer.json) == (200, {"discarded": 1, "left": 0})
    assert call("DELETE", path).status_code == 404
    assert call("POST", f"{path}/requeue").status_code == 404
    assert books(call) == before
    assert DeadLetter.get().data is None


def test_many_are_discarded_by_filter_and_never_by_none(
    call: Request, instance: str, die: Die
) -> None:
    die(3)
    die(2, how=steps.exhausted)

    refused = call("POST", "/deadletter/discard", {})
    done = call("POST", "/deadletter/discard", {"reason": "rejected", "limit": 2})

    assert refused.status_code == 400
    assert done.json == {"discarded": 2, "left": 1, "operation": None}
    assert letters(call)["reasons"] == {"exhausted": 2, "rejected": 1}


def test_a_late_bury_writes_no_ghost_of_a_letter_that_was_dealt_with(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    steps.end_all(outbox, steps.rejected)
    (grave,) = redis_client.keys("*dying*")
    stalled = redis_client.hgetall(grave)
    steps.bury(outbox)
    call("POST", "/deadletter/requeue", {"all": True})

    redis_client.hset(grave, mapping=stalled)
    redis_client.sadd("evo:{p0}:graves", grave.decode().rpartition(":")[2])
    steps.bury(outbox)

    assert letters(call)["total"] == 0


def test_what_was_given_up_on_a_lane_without_a_row_is_kept(
    call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    steps.end_all(outbox, steps.rejected)
    models.Subscription.delete().execute()

    assert steps.bury(outbox) == 0
    (grave,) = redis_client.keys("*dying*")
    assert redis_client.hlen(grave) == 1


# -- whose ----------------------------------------------------------------------------------


def test_a_token_sees_and_does_its_own_only(
    call: Request, instance: str, other: str, die: Die
) -> None:
    die(2)
    die(1, instance="b")
    mine = letters(call, "?instance=b")["letters"][0]["id"]
    theirs = letters(call, "?instance=a")["letters"][0]["id"]

    assert letters(call, key="token-b")["total"] == 1
    assert call("GET", f"/deadletter/{mine}", key="token-b").status_code == 200
    for method, path in (("GET", ""), ("POST", "/requeue"), ("DELETE", "")):
        assert call(method, f"/deadletter/{theirs}{path}", key="token-b").status_code == 404
    assert call("GET", "/deadletter?instance=a", key="token-b").status_code == 401
    for verb in ("requeue", "discard"):
        refused = call("POST", f"/deadletter/{verb}", {"instance": "a"}, key="token-b")
        assert refused.status_code == 401
    done = call("POST", "/deadletter/requeue", {"all": True}, key="token-b")
    assert done.json == at_once(1, 0)
    assert letters(call)["total"] == 2


def test_a_name_that_is_given_again_shows_nothing_of_the_old_one(
    call: Request, instance: str, die: Die
) -> None:
    die(2)
    call("DELETE", "/instance/delete/a")

    again = {"instanceName": "a", "token": "token-new", "webhook": {"url": "https://e.com"}}
    call("POST", "/instance/create", again)

    assert letters(call)["total"] == 0
    assert letters(call, key="token-new")["total"] == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "?limit=x"),
        ("GET", "/1"),
        ("POST", "/1/requeue"),
        ("POST", "/requeue"),
        ("POST", "/discard"),
        ("DELETE", "/1"),
    ],
)
def test_no_key_or_a_wrong_one_is_401(call: Request, instance: str, method: str, path: str) -> None:
    assert call(method, f"/deadletter{path}", key="wrong").status_code == 401
    assert call(method, f"/deadletter{path}", key="").status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"instance": 1},
        {"limit": "5"},
        {"limit": 0},
        {"all": "yes"},
        {"since": True},
        {"event": ["CALL"]},
        {"reason": "a\x00b"},
        {"onto": ""},
        {"onto": 1},
        {"dryRun": "yes"},
        {"text": 1},
        [],
        None,
    ],
)
def test_a_body_that_is_no_filter_requeues_nothing(
    call: Request, instance: str, die: Die, body: Any
) -> None:
    die(1)

    assert call("POST", "/deadletter/requeue", body).status_code == 400
    assert letters(call)["total"] == 1


def test_the_strangest_letter_is_written_and_found(
    call: Request, instance: str, die: Die, outbox: Outbox
) -> None:
    noise = random.Random(1)
    strange = "\x00" + "".join(chr(noise.randrange(0x1F300, 0x1FAFF)) for _ in range(299))
    why = {"reason": "rejected", "code": "\x00" + "é" * 60, "detail": strange}
    data = {"nul\x00": ["\x00", "😀" * 1000]}

    def end(member: str, tries: int) -> Ended:
        return Ended("x", member, tries + 1, why=json.dumps(why))

    die(how=end, data=data)

    (row,) = letters(call)["letters"]
    kept = DeadLetter.get()
    assert row["detail"][1:] == strange[1:]
    assert json.loads(bytes(kept.data)) == data
    assert call("GET", "/deadletter?text=%00").status_code == 200
