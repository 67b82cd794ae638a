"""Alive, ready and the numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

import app as composition
from evoflask import db, health, models, vault
from evoflask.dev.redis_server import RedisServer
from evoflask.outbox import Outbox, verbs
from evoflask.outbox.timetable import Timetable
from evoflask.settings import Settings
from tests.conftest import ENCRYPTION_KEY
from tests.web import steps
from tests.web.conftest import GLOBAL, Request

pytestmark = pytest.mark.databases


def parts(client: FlaskClient, status: int = 200) -> Any:
    answer = client.get("/readyz")
    assert answer.status_code == status, answer.json
    assert answer.json is not None
    return answer.json["parts"]


def numbers(call: Request) -> dict[str, float]:
    """`name{sink="webhook"}` and its value."""
    answer = call("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    return {
        sample.name + "".join(f"[{sample.labels[name]}]" for name in sorted(sample.labels)): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def gone(settings: Callable[..., Settings], tmp_path: Path) -> FlaskClient:
    """A client of an application whose Redis and database are not there."""
    where = tmp_path / "nowhere"
    made = composition.create_app(
        settings(redis_url=f"unix://{where}/s", database_url=f"sqlite:///{where}/d.db")
    )
    return made.test_client()


# -- alive and ready ------------------------------------------------------------------------


def test_alive_needs_no_key_and_nobody_else(gone: FlaskClient) -> None:
    answer = gone.get("/healthz")

    assert (answer.status_code, answer.json) == (200, {"status": "alive"})


def test_ready_names_every_part(client: FlaskClient, outbox: Outbox) -> None:
    Timetable(outbox).done(["ring"])

    found = parts(client)

    assert list(found) == ["redis", "durability", "memory", "database", "secrets", "clock"]
    assert found["redis"]["state"] == found["database"]["state"] == "ok"
    assert found["clock"]["state"] == "ok"
    assert found["clock"]["secondsSince"]["ring"] < 10
    assert found["memory"]["max"] == 1024**3
    assert 0 < found["memory"]["share"] < 1


def test_a_redis_that_keeps_no_file_is_told_and_no_reason_to_refuse(client: FlaskClient) -> None:
    durability = parts(client)["durability"]

    assert (durability["state"], durability["appendonly"]) == ("warning", False)
    assert "loses all" in durability["message"]


@pytest.mark.parametrize(
    ("fsync", "state", "words"),
    [
        ("always", "ok", "loses nothing"),
        ("everysec", "ok", "the last second"),
        ("no", "warning", "half a minute"),
    ],
)
def test_what_a_power_cut_can_cost_is_said_in_words(
    settings: Callable[..., Settings], tmp_path: Path, fsync: str, state: str, words: str
) -> None:
    with RedisServer(tmp_path / "r", appendonly=True, fsync=fsync) as server:
        made = composition.create_app(settings(redis_url=server.url))
        db.upgrade()
        durability = parts(made.test_client())["durability"]
        db.close()

    assert (durability["state"], durability["appendfsync"]) == (state, fsync)
    assert words in durability["message"]


def test_a_redis_that_drops_keys_is_told(client: FlaskClient, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        durability = parts(client)["durability"]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")

    assert (durability["state"], durability["policy"]) == ("warning", "allkeys-lru")
    assert "drop accepted events" in durability["message"]


def test_short_memory_is_told_in_what_it_means(
    client: FlaskClient, redis_client: redis.Redis
) -> None:
    used = redis_client.info("memory")["used_memory"]
    redis_client.config_set("maxmemory", round(used / 0.85))

    memory = parts(client)["memory"]

    assert memory["state"] == "warning"
    assert "refused" in memory["message"]


def test_no_maxmemory_is_told(client: FlaskClient, redis_client: redis.Redis) -> None:
    redis_client.config_set("maxmemory", 0)

    assert parts(client)["memory"]["state"] == "warning"


def test_without_redis_nothing_is_ready(gone: FlaskClient) -> None:
    found = parts(gone, 503)

    assert found["redis"]["state"] == found["database"]["state"] == "failure"
    assert "nowhere" not in str(found)


def test_missing_migrations_are_named(settings: Callable[..., Settings], empty_url: str) -> None:
    made = composition.create_app(settings(database_url=empty_url))

    database = parts(made.test_client(), 503)["database"]
    db.close()

    assert "0001_first" in database["pending"]
    assert "db upgrade" in database["message"]


def test_secrets_that_do_not_open_are_told_and_events_are_taken_on(
    client: FlaskClient, call: Request, instance: str
) -> None:
    before = parts(client)["secrets"]["state"]
    vault.configure([vault.new_key()])
    try:
        told = parts(client)["secrets"]
        numbers = call("GET", "/metrics").get_data(as_text=True)
    finally:
        vault.configure([ENCRYPTION_KEY])

    assert before == "ok"
    assert (told["state"], told["closed"]) == ("warning", 1)
    assert "ENCRYPTION_KEY" in told["message"]
    assert "evoflask_secrets_closed 1.0" in numbers
    assert "evoflask_secrets_closed 0.0" in call("GET", "/metrics").get_data(as_text=True)


def test_a_database_that_knows_no_lane_of_redis_is_a_failure(
    client: FlaskClient, call: Request, instance: str
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    before = parts(client)["database"]
    models.Subscription.update(lane="another").execute()

    empty = parts(client, 503)["database"]

    assert (before["state"], before["lanesLookedAt"], before["lanesUnknown"]) == ("ok", 1, 0)
    assert (empty["state"], empty["lanesUnknown"]) == ("failure", 1)
    assert "DATABASE_URL" in empty["message"]


def test_the_web_process_logs_a_database_that_knows_no_lane_of_redis(
    application: Flask, call: Request, instance: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts_ = application.extensions["evoflask"]
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    health.log_database(parts_.outbox, parts_.settings)
    before = len(caplog.records)

    models.Subscription.update(lane="another").execute()
    health.log_database(parts_.outbox, parts_.settings)

    assert before == 0
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    assert "knows none of them" in caplog.text


def test_secrets_in_the_clear_are_told(client: FlaskClient, instance: str) -> None:
    models.Subscription.update(settings=vault.Sealed("{}")).execute()

    told = parts(client)["secrets"]

    assert (told["state"], told["plain"]) == ("warning", 1)
    assert "secrets rotate" in told["message"]


def test_a_clock_that_fell_silent_is_told(client: FlaskClient, redis_client: redis.Redis) -> None:
    assert "is the clock running" in parts(client)["clock"]["message"]
    redis_client.hset("evo:chores", "ring", time.time() - 100)
    assert "is the clock running" in parts(client)["clock"]["message"]
    redis_client.hset("evo:chores", mapping={"ring": time.time(), "bury": time.time() - 100})

    clock = parts(client)["clock"]

    assert (clock["state"], clock["message"].split(":")[0]) == ("warning", "Chores that fail")
    assert "bury" in clock["message"]


def test_a_replica_is_no_outbox(
    redis_client: redis.Redis, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "r") as server, server.client() as client:
        client.replicaof("127.0.0.1", 1)
        made = composition.create_app(settings(redis_url=server.url))
        db.upgrade()

        redis_part = parts(made.test_client(), 503)["redis"]
        db.close()

    assert "replica" in redis_part["message"]


def test_durability_is_logged_in_one_line(
    settings: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        health.tell(settings())
        health.tell(settings(redis_url=f"unix://{tmp_path}/none"))

    first, second = [r for r in caplog.records if r.name == "evoflask.health"]
    assert "append-only" in first.getMessage()
    assert "not known yet" in second.getMessage()


# -- the numbers ----------------------------------------------------------------------------


def test_metrics_need_the_global_key(client: FlaskClient, instance: str) -> None:
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"apikey": "token-a"}).status_code == 401
    assert client.get("/metrics", headers=GLOBAL).status_code == 200


def test_every_number_is_there_before_anything_happened(call: Request) -> None:
    found = numbers(call)

    assert found["evoflask_events_accepted_total"] == 0
    for name in ("routed_total", "delivered_total", "dead_total", "discarded_total"):
        assert found[f"evoflask_deliveries_{name}[webhook]"] == 0
    assert found["evoflask_backlog[webhook]"] == 0
    assert found["evoflask_oldest_waiting_seconds[webhook]"] == 0
    assert found["evoflask_delivery_latency_seconds_count[webhook]"] == 0
    assert found["evoflask_dead_letters[webhook]"] == 0
    assert found["evoflask_redis_memory_max_bytes"] == 1024**3


def test_what_happens_is_counted(call: Request, instance: str, outbox: Outbox) -> None:
    call("POST", "/event/emit/a", [{"event": "CALL", "data": n} for n in range(5)])
    call("POST", "/event/emit/a", {"event": "QRCODE_UPDATED", "data": 1})
    for _ in range(2):
        call("POST", "/event/emit/a", {"event": "CALL", "data": 1, "id": "same"})
    steps.kill(outbox)
    call("POST", "/deadletter/requeue", {"all": True, "limit": 2})

    found = numbers(call)

    assert found["evoflask_events_accepted_total"] == 6 + 2
    assert found["evoflask_events_unwanted_total"] == 1
    assert found["evoflask_events_duplicates_total"] == 1
    assert found["evoflask_deliveries_routed_total[webhook]"] == 6
    assert found["evoflask_deliveries_requeued_total[webhook]"] == 2
    assert found["evoflask_deliveries_dead_total[webhook]"] == 6
    assert found["evoflask_backlog[webhook]"] == 2
    assert found["evoflask_dead_letters[webhook]"] == 4
    assert 0 <= found["evoflask_oldest_waiting_seconds[webhook]"] < 60


def test_the_latency_is_a_cumulative_histogram(
    call: Request, instance: str, outbox: Outbox
) -> None:
    call("POST", "/event/emit/a", [{"event": "CALL", "data": n} for n in range(2)])
    (held,) = steps.take(outbox)
    ended = [steps.delivered(member, tries) for member, tries in held.ids]
    totals = {
        "webhook:le:0.005": 1,
        "webhook:le:+Inf": 1,
        "webhook:latency_ms": 400_002,
        "webhook:failed:refused": 3,
    }
    outbox.run(verbs.settle(0, held.lane, held.token, ended, hold=0, totals=totals))

    found = numbers(call)

    name = "evoflask_delivery_latency_seconds"
    assert found[f"{name}_bucket[0.005][webhook]"] == 1
    assert found[f"{name}_bucket[300][webhook]"] == 1
    assert found[f"{name}_bucket[+Inf][webhook]"] == found[f"{name}_count[webhook]"] == 2
    assert found[f"{name}_sum[webhook]"] == pytest.approx(400.002)
    assert found["evoflask_attempts_failed_total[refused][webhook]"] == 3


def test_no_label_names_an_instance(call: Request, instance: str, outbox: Outbox) -> None:
    call("POST", "/instance/create", {"instanceName": "tenant-x", "token": "token-x"})
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    steps.kill(outbox)

    text = call("GET", "/metrics").text

    assert "tenant-x" not in text
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }
    assert labels <= {"sink", "outcome", "le", "chore", "where"}


def test_without_the_database_the_rest_is_still_told(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    made = composition.create_app(settings(database_url=f"sqlite:///{tmp_path}/none/d.db"))

    text = made.test_client().get("/metrics", headers=GLOBAL).text

    assert "evoflask_backlog" in text
    assert "evoflask_dead_letters{" not in text
    assert "evoflask_dead_letters_expiring" not in text


def test_without_redis_metrics_are_503(gone: FlaskClient) -> None:
    assert gone.get("/metrics", headers=GLOBAL).status_code == 503


def test_two_applications_tell_the_same(
    application: Flask, settings: Callable[..., Settings], call: Request, instance: str
) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})
    second = composition.create_app(settings()).test_client()

    text = second.get("/metrics", headers=GLOBAL).text

    assert "evoflask_events_accepted_total 1.0" in text
