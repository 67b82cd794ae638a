"""Dead letters as failed RQ jobs: the picture follows the rows, whatever happens to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from evoflask import bell, db, mirror, models
from evoflask.delivery.chores import Chores
from evoflask.mirror import Mirror
from evoflask.models import DeadLetter
from evoflask.outbox import Outbox
from evoflask.outbox.timetable import Timetable
from evoflask.settings import Settings
from evoflask.sinks import delivering
from tests.web import steps
from tests.web.conftest import Request
from workers.letters import Letters

pytestmark = pytest.mark.databases

SINK = "webhook"
QUEUE = bell.queue_name(SINK)
SECRET = "a secret of the payload"


@pytest.fixture
def die(call: Request, outbox: Outbox, instance: str) -> Callable[..., None]:
    """`die(3)`: events that are given up, with their letters."""

    def run(n: int = 1, how: Any = steps.rejected, **event: Any) -> None:
        body = [{"event": "CALL", "data": {"text": SECRET}, **event} for _ in range(n)]
        assert call("POST", "/event/emit/a", body).status_code == 202
        assert steps.kill(outbox, how) == n

    return run


@pytest.fixture
def tick(redis_client: redis.Redis) -> Callable[..., int]:
    """One tick of the clock's mirror: `tick(limit=5)`."""

    def run(limit: int = 1000) -> int:
        return Mirror(redis_client, delivering(), limit).tick()

    return run


def shown(client: redis.Redis) -> list[int]:
    return mirror.shown(client, SINK)


def job(client: redis.Redis, letter: int) -> Job:
    return Job.fetch(mirror.job_id(letter), connection=client, serializer=JSONSerializer)


def expired(member: str, tries: int) -> Any:
    why = {"reason": "expired", "code": "", "detail": "too old"}
    return steps.Ended("x", member, tries + 1, why=json.dumps(why))


def test_a_letter_is_a_failed_job_that_one_can_read(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(id="3EB0-and-more-than-sixteen")

    assert tick() == 1

    (letter,) = shown(redis_client)
    found = job(redis_client, letter)
    assert found.description == "webhook a/webhook CALL 3EB0-and-more-t… 410 after 1 try"
    assert (found.origin, found.get_status(), found.is_failed) == (QUEUE, "failed", True)
    assert (found.func_name, list(found.args)) == ("workers.jobs.requeue_letter", [letter])
    result = found.latest_result()
    assert result is not None
    assert result.type == result.Type.FAILED
    assert result.exc_string.startswith("rejected: the destination said no for good\n410: gone for")
    assert "3EB0-and-more-than-sixteen" in result.exc_string
    assert abs(found.ended_at.timestamp() - time.time()) < 60


def test_nothing_of_the_payload_and_of_the_settings_is_in_rq(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(2)
    tick()

    for letter in shown(redis_client):
        found = job(redis_client, letter)
        words = [found.description, found.latest_result().exc_string, str(found.args)]
        assert SECRET not in " ".join(words)
        assert "https://" not in " ".join(words)


def test_a_second_tick_writes_nothing(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(3)
    tick()
    before = redis_client.info("stats")["total_commands_processed"]

    assert tick() == 0

    # One look at each sink's failed jobs, one at whether the jobs exist.
    after = redis_client.info("stats")["total_commands_processed"]
    assert after - before <= len(delivering()) + 2


def test_a_letter_that_was_settled_elsewhere_disappears(
    die: Callable[..., None], tick: Callable[..., int], call: Request, redis_client: redis.Redis
) -> None:
    die(3)
    tick()
    first, second, third = shown(redis_client)

    call("POST", f"/deadletter/{first}/requeue")
    call("DELETE", f"/deadletter/{third}")
    tick()

    assert shown(redis_client) == [second]
    assert not redis_client.exists(f"rq:job:dl-{first}", f"rq:results:dl-{first}")


def test_a_job_that_is_missing_discards_nothing_and_comes_back(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(4)
    tick()
    first, second, third, fourth = shown(redis_client)
    job(redis_client, first).delete()
    redis_client.delete(f"rq:job:dl-{second}")
    redis_client.delete(f"rq:results:dl-{third}")

    assert tick() == 3

    assert shown(redis_client) == [first, second, third, fourth]
    assert DeadLetter.select().where(DeadLetter.discarded_at.is_null(False)).count() == 0
    assert all(job(redis_client, each).latest_result() for each in shown(redis_client))


def test_the_picture_is_made_again_from_the_rows_when_rqs_redis_was_emptied(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(5)
    tick()
    before = shown(redis_client)
    for key in redis_client.scan_iter("rq:*"):
        redis_client.delete(key)

    assert tick() == 5

    assert shown(redis_client) == before


def test_the_newest_are_shown_newest_first_and_those_that_expired_are_not(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(12)
    die(2, how=expired)
    newest = [row.id for row in DeadLetter.select().where(DeadLetter.reason == "rejected")][-5:]

    tick(5)

    assert shown(redis_client) == newest[::-1]


def test_a_smaller_limit_takes_jobs_away_and_0_takes_all(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(3)
    tick()

    tick(1)
    one = len(shown(redis_client))
    tick(0)

    assert (one, len(shown(redis_client))) == (1, 0)
    assert DeadLetter.select().count() == 3
    assert list(redis_client.scan_iter("rq:job:dl-*")) == []


def test_rq_forgets_no_letter_when_it_cleans_its_registries(
    die: Callable[..., None], tick: Callable[..., int], redis_client: redis.Redis
) -> None:
    die(2)
    tick()

    FailedJobRegistry(QUEUE, connection=redis_client, serializer=JSONSerializer).cleanup()

    assert len(shown(redis_client)) == 2


def test_what_rqs_own_tools_requeue_is_requeued_by_the_worker(
    die: Callable[..., None],
    tick: Callable[..., int],
    redis_client: redis.Redis,
    settings: Callable[..., Settings],
    outbox: Outbox,
) -> None:
    die(id="order-1")
    tick()
    (letter,) = shown(redis_client)

    job(redis_client, letter).requeue()
    jobs = bell.queue(redis_client, SINK).jobs
    (waiting,) = [each for each in jobs if each.func_name == mirror.JOB]
    Letters(settings()).requeue(*waiting.args)
    tick()

    assert shown(redis_client) == []
    assert steps.end_all(outbox, steps.delivered) == 1
    (noted,) = models.AuditLog.select().where(models.AuditLog.action == "deadletter.requeue")
    assert (noted.by, noted.action, noted.facts) == ("rq", "deadletter.requeue", {"letter": letter})
    assert (noted.instance_name, noted.subscription_name) == ("a", "webhook")


def test_a_letter_that_cannot_be_requeued_stays_and_the_worker_does_not_fail(
    die: Callable[..., None],
    tick: Callable[..., int],
    call: Request,
    redis_client: redis.Redis,
    settings: Callable[..., Settings],
) -> None:
    die()
    tick()
    (letter,) = shown(redis_client)
    assert call("DELETE", "/subscription/a/webhook").status_code == 200

    Letters(settings()).requeue(letter)
    Letters(settings()).requeue(letter + 1)

    tick()
    assert shown(redis_client) == [letter]


def test_a_thousand_letters_that_rqs_tools_requeued_do_not_keep_a_bell_from_ringing(
    redis_client: redis.Redis,
) -> None:
    line = bell.queue(redis_client, SINK)
    for n in range(50):
        line.enqueue_call(mirror.JOB, args=(n,), job_id=f"dl-{n + 1}")

    rung = [bell.ring(redis_client, SINK) for _ in range(bell.PENDING + 3)]

    assert rung.count(True) == bell.PENDING
    assert not line.get_job_ids(0, 1)[0].startswith(bell.LETTER)


@pytest.mark.parametrize("name", ["", "dl-", "dl-0", "dl-01", "dl-x", "dl-1 ", "dl--1", "0af3"])
def test_no_other_job_is_taken_for_a_letters(name: str) -> None:
    assert mirror.letter_of(name) is None


def test_a_tick_reads_an_index_and_no_rows(
    die: Callable[..., None], tick: Callable[..., int]
) -> None:
    query, values = (
        DeadLetter.select(DeadLetter.id, DeadLetter.sink)
        .where(models.MIRRORED)
        .order_by(DeadLetter.id.desc())
        .limit(1000)
        .sql()
    )

    if db.is_sqlite():
        plan = db.database.execute_sql(f"EXPLAIN QUERY PLAN {query}", values).fetchall()
        assert "COVERING INDEX dead_letter_mirrored" in str(plan)
        assert "TEMP B-TREE" not in str(plan)
    else:
        die(2)
        names = [f.column_name for f in DeadLetter._meta.sorted_fields if f is not DeadLetter.id]
        copied = {"requeued_at": "1", "entry": "entry || '-' || n"}
        columns, values_ = ", ".join(names), ", ".join(copied.get(name, name) for name in names)
        db.database.execute_sql(
            f"INSERT INTO dead_letter ({columns}) SELECT {values_}"
            " FROM dead_letter, generate_series(1, 5000) n"
        )
        db.database.execute_sql("VACUUM ANALYZE dead_letter")
        plan = db.database.execute_sql(f"EXPLAIN {query}", values).fetchall()
        # Which of the partial ones is the planner's choice: two letters are two in each.
        assert "Index" in str(plan)
        assert "Seq Scan" not in str(plan)


def test_an_rq_redis_that_is_away_keeps_no_other_chore_from_being_done(
    outbox: Outbox, instance: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chores = Chores(settings(rq_redis_url=f"unix://{tmp_path}/nobody"))

    chores.tick()
    chores.tick()

    done = Timetable(outbox).last_done()
    assert "mirror" not in done
    assert {"bury", "trim", "letters", "tombstones"} <= {*done}


def test_the_clock_mirrors_in_its_round(
    die: Callable[..., None], settings: Callable[..., Settings], redis_client: redis.Redis
) -> None:
    die(2)

    Chores(settings(deadletter_mirror=1)).tick()

    assert len(shown(redis_client)) == 1
