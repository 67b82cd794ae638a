"""The commands, on a database and a Redis of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import Result
from flask import Flask

import app as composition
from evoflask import db, models, vault
from evoflask.outbox import Outbox
from evoflask.outbox.timetable import Timetable
from evoflask.settings import Settings
from tests.web import steps
from tests.web.conftest import Request

pytestmark = pytest.mark.databases

Flask_ = Callable[..., Result]
CALL = {"event": "CALL", "data": 1}


@pytest.fixture
def flask(application: Flask) -> Flask_:
    """`flask("lanes", "--instance", "a")`."""
    runner = application.test_cli_runner()

    def run(*arguments: str, status: int = 0, **how: Any) -> Result:
        result = runner.invoke(args=arguments, **how)
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def letters(call: Request, instance: str, outbox: Outbox) -> list[int]:
    """Five letters of `a`, two of them exhausted."""
    for n, how in ((3, steps.rejected), (2, steps.exhausted)):
        call("POST", "/event/emit/a", [{"event": "CALL", "data": each} for each in range(n)])
        steps.kill(outbox, how)
    return [row.id for row in models.DeadLetter.select().order_by(models.DeadLetter.id)]


def waiting(call: Request) -> int:
    return int(call("GET", "/lane?instance=a").json["lanes"][0]["backlog"])


# -- audit ----------------------------------------------------------------------------------


def test_audit_is_0_where_the_books_balance(flask: Flask_, letters: list[int]) -> None:
    assert "1 lane of 1 instance: 0 findings." in flask("audit").output
    assert "0 deliveries: 0 findings" in flask("audit", "--deep").output


def test_audit_is_1_and_says_where_they_do_not(
    flask: Flask_, letters: list[int], redis_client: redis.Redis
) -> None:
    lane = models.Subscription.get().lane
    redis_client.hincrby(f"evo:{{p0}}:lane:{lane}", "delivered", 1)

    table = flask("audit", status=1).output
    report = json.loads(flask("audit", "--json", status=1).output)

    assert "books" in table
    assert "a/webhook" in table
    assert report["findings"][0]["where"] == "a/webhook"


def test_audit_is_2_where_it_cannot_look(settings: Callable[..., Settings], tmp_path: Path) -> None:
    made = composition.create_app(settings(redis_url=f"unix://{tmp_path}/none"))
    db.upgrade()

    result = made.test_cli_runner().invoke(args=["audit"])
    db.close()

    assert result.exit_code == 2
    assert "evoflask: the outbox cannot be reached" in result.output


# -- lanes, emit ----------------------------------------------------------------------------


def test_lanes_are_a_table(flask: Flask_, call: Request, instance: str, outbox: Outbox) -> None:
    call("POST", "/event/emit/a", {"event": "CALL", "data": 1})

    head, line = flask("lanes", "--instance", "a").output.splitlines()

    assert head.split()[:4] == ["lane", "sink", "state", "waiting"]
    assert line.split()[:4] == ["a/webhook", "webhook", "active", "1"]


def test_lanes_of_an_instance_that_is_not_there_is_2(flask: Flask_, instance: str) -> None:
    assert 'The "nope" instance' in flask("lanes", "--instance", "nope", status=2).output


def test_a_lane_is_stopped_probed_skipped_and_purged_and_the_audit_log_says_so(
    flask: Flask_, call: Request, instance: str, outbox: Outbox
) -> None:
    ids = [row["id"] for row in call("POST", "/event/emit/a", [CALL] * 3).json["results"]]

    probed = flask("lane", "probe", "a", "webhook").output
    skipped = flask("lane", "skip", "a", "webhook", "--event-id", ids[0]).output
    paused = flask("lane", "pause", "a", "webhook").output
    asked = flask("lane", "purge", "a", "webhook", status=2).output
    purged = flask("lane", "purge", "a", "webhook", "--confirm", "2").output
    resumed = flask("lane", "resume", "a", "webhook").output

    assert probed == "a/webhook is active, 3 wait.\n"
    assert skipped == f"{ids[0]} (CALL, 0 tries) becomes a dead letter.\n"
    assert paused == "a/webhook is stopped, 2 wait.\n"
    assert "2 events wait on a/webhook. To discard them: --confirm 2." in asked
    assert purged == "2 discarded.\n"
    assert resumed == "a/webhook is idle, 0 wait.\n"
    head, *lines = flask("audit-log", "--action", "lane", "--by", "cli").output.splitlines()
    assert head.split() == ["at", "by", "action", "instance", "subscription", "facts"]
    done = [line.split()[2] for line in reversed(lines)]
    assert done == ["lane.probe", "lane.skip", "lane.pause", "lane.purge", "lane.resume"]
    assert '{"discarded": 2' in lines[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("probe", "a", "webhook"), "Nothing waits on the lane."),
        (("skip", "a", "webhook"), "Nothing waits on the lane."),
        (("purge", "a", "webhook", "--confirm", "3"), "0 events wait on the lane, not 3"),
        (("pause", "a", "nope"), 'The subscription "nope"'),
        (("resume", "nope", "webhook"), 'The "nope" instance'),
    ],
)
def test_what_cannot_be_done_to_a_lane_is_said(
    flask: Flask_, instance: str, arguments: tuple[str, ...], words: str
) -> None:
    assert words in flask("lane", *arguments, status=2).output


def test_watching_lanes_shows_them_again_and_again_the_busiest_first_until_it_is_interrupted(
    flask: Flask_, call: Request, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://e.com"}
    call("POST", "/subscription/a", body)
    call("POST", "/lane/a/webhook/pause")
    screens = 0

    def next_screen(seconds: float) -> None:
        nonlocal screens
        screens += 1
        call("POST", "/event/emit/a", {"event": "QRCODE_UPDATED", "data": 1})
        if screens == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", next_screen)

    lines = flask("lanes", "--watch", "--every", "0.5").output.splitlines()

    assert screens == 3
    assert [line.split()[0] for line in lines[:3]] == ["lane", "a/webhook", "a/crm"]
    assert lines[3].startswith("0 wait on 2 lanes at ")
    assert [line.split()[0] for line in lines[8:11]] == ["lane", "a/crm", "a/webhook"]
    assert lines[11].startswith("2 wait on 2 lanes at ")


def test_a_watch_outlives_a_redis_that_is_away(
    settings: Callable[..., Settings],
    call: Request,
    instance: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = composition.create_app(settings(redis_url=f"unix://{tmp_path}/none"))
    monkeypatch.setattr(time, "sleep", _interrupt)

    result = made.test_cli_runner().invoke(args=["lanes", "--watch"])
    db.close()

    assert result.exit_code == 0
    assert "evoflask: the outbox cannot be reached" in result.output


def _interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_emit_says_who_gets_it_and_obeys_an_id(
    flask: Flask_, call: Request, instance: str, outbox: Outbox, redis_client: redis.Redis
) -> None:
    data = '{"n": 1.10, "big": 123456789012345678901234567890}'

    first = flask("emit", "a", "call", data, "--id", "order-1")
    again = flask("emit", "a", "call", "-", "--id", "order-1", input=data)

    assert first.output == "order-1 is accepted, for webhook.\n"
    assert "was accepted before" in again.output
    assert "for nobody" in flask("emit", "a", "qrcode.updated", "1").output
    ((_, fields),) = redis_client.xrange(f"evo:{{p0}}:outbox:{models.Instance.get().outbox}")
    assert fields[b"data"] == data.encode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "call", "{"), "data: is not JSON"),
        (("a", "call", '1, "id": "x"'), "data: is not JSON"),
        (("a", "nope", "1"), "is not an event"),
        (("b", "call", "1"), 'The "b" instance'),
        (("a", "call", "1", "--id", "a b"), "id: Must be"),
    ],
)
def test_emit_refuses_with_a_sentence(
    flask: Flask_, instance: str, arguments: tuple[str, ...], words: str
) -> None:
    assert words in flask("emit", *arguments, status=2).output


# -- dead letters ---------------------------------------------------------------------------


def test_letters_are_listed_newest_first_and_counted(flask: Flask_, letters: list[int]) -> None:
    lines = flask("deadletters", "list").output.splitlines()

    assert [int(line.split()[0]) for line in lines[1:-1]] == letters[::-1]
    assert lines[-1] == "5 letters: 2 exhausted, 3 rejected."
    only = flask("deadletters", "list", "--reason", "exhausted", "--limit", "1").output
    assert len(only.splitlines()) == 3


def test_letters_are_requeued_by_id(flask: Flask_, call: Request, letters: list[int]) -> None:
    first, second, *_ = map(str, letters)

    assert flask("deadletters", "requeue", first, second).output == "2 requeued, 0 refused.\n"

    again = flask("deadletters", "requeue", first, status=1)
    assert "There is no dead letter" in again.output
    assert waiting(call) == 2


def test_letters_are_requeued_by_filter_and_all(
    flask: Flask_, call: Request, letters: list[int]
) -> None:
    by_filter = flask("deadletters", "requeue", "--reason", "exhausted", "--instance", "a")
    limited = flask("deadletters", "requeue", "--all", "--limit", "1")
    rest = flask("deadletters", "requeue", "--all")

    assert by_filter.output == "2 requeued, 0 left.\n"
    assert limited.output == "1 requeued, 2 left.\n"
    assert rest.output == "2 requeued, 0 left.\n"
    assert waiting(call) == 5


def test_letters_are_discarded_by_id_and_by_filter(
    flask: Flask_, call: Request, letters: list[int]
) -> None:
    assert flask("deadletters", "discard", str(letters[0])).output == "1 discarded, 0 refused.\n"
    assert flask("deadletters", "discard", "--code", "500").output == "2 discarded, 0 left.\n"
    assert call("GET", "/deadletter").json["total"] == 2


def test_a_dry_run_only_counts(flask: Flask_, call: Request, letters: list[int]) -> None:
    requeue = flask("deadletters", "requeue", "--text", "gone", "--dry-run").output
    discard = flask("deadletters", "discard", "--all", "--limit", "4", "--dry-run").output

    assert requeue == "3 would be requeued; 3 found.\n"
    assert discard == "4 would be discarded; 5 found.\n"
    assert call("GET", "/deadletter").json["total"] == 5
    flask("deadletters", "requeue", str(letters[0]), "--dry-run", status=2)


def test_letters_are_requeued_onto_another_subscription(
    flask: Flask_, call: Request, letters: list[int]
) -> None:
    crm = {"name": "crm", "sink": "webhook", "enabled": True, "url": "https://e.com"}
    call("POST", "/subscription/a", crm)

    flask("deadletters", "requeue", str(letters[0]), "--onto", "crm")
    flask("deadletters", "requeue", "--instance", "a", "--onto", "crm")
    flask("deadletters", "requeue", "--all", "--onto", "crm", status=2)

    backlogs = [lane["backlog"] for lane in call("GET", "/lane").json["lanes"]]
    assert backlogs == [0, 5]
    noted = [
        row for row in models.AuditLog.select().order_by(models.AuditLog.id) if row.by == "cli"
    ]
    assert [row.facts.get("done") for row in noted] == [None, 4]


def test_operations_are_listed_and_cancelled(
    flask: Flask_, call: Request, letters: list[int]
) -> None:
    row = models.Operation.create(kind="requeue", scope_instance_id=1, by="global", total=5, done=2)

    listed = flask("operations", "list", "--instance", "a", "--state", "running").output
    said = flask("operations", "cancel", str(row.id)).output

    assert listed.splitlines()[1].split()[2:7] == ["requeue", "global", "running", "2", "5"]
    assert said == "2 of 5 were done.\n"
    flask("operations", "cancel", str(row.id), status=2)
    flask("operations", "list", "--state", "odd", status=2)


@pytest.mark.parametrize(
    "arguments",
    [(), ("1", "--all"), ("--all", "--reason", "x"), ("--event", "nope"), ("--since", "soon"),
     ("--sink", "websocket"), ("--instance", "nope")],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["requeue", "discard"])
def test_what_is_meant_must_be_clear(
    flask: Flask_, call: Request, letters: list[int], verb: str, arguments: tuple[str, ...]
) -> None:
    flask("deadletters", verb, *arguments, status=2)

    assert call("GET", "/deadletter").json["total"] == 5


def test_what_a_letter_says_cannot_change_the_terminal(flask: Flask_, letters: list[int]) -> None:
    models.DeadLetter.update(detail="\x1b[2J\nnew line").execute()

    lines = flask("deadletters", "list").output.splitlines()

    assert len(lines) == 7
    assert "\x1b" not in "".join(lines)


# -- doctor, the database -------------------------------------------------------------------


def test_the_doctor_looks_at_every_part(flask: Flask_, outbox: Outbox, instance: str) -> None:
    Timetable(outbox).done(["ring"])

    looked = {part["name"]: part for part in json.loads(flask("doctor", "--json").output)}

    assert list(looked) == [
        "key", "redis", "durability", "memory", "database", "secrets", "clock", "bells",
        "workers", "dead letters",
    ]  # fmt: skip
    assert looked["key"]["state"] == looked["redis"]["state"] == looked["clock"]["state"] == "ok"
    assert looked["bells"]["words"].startswith("No worker listens for webhook")
    assert "durability" in flask("doctor").output


def test_the_doctor_is_1_where_something_fails(
    settings: Callable[..., Settings], tmp_path: Path, empty_url: str
) -> None:
    nowhere = {"redis_url": f"unix://{tmp_path}/none", "rq_redis_url": "unix:///none"}
    made = composition.create_app(settings(api_key="", database_url=empty_url, **nowhere))

    result = made.test_cli_runner().invoke(args=["doctor"])
    db.close()

    assert result.exit_code == 1
    states = {line.split("  ")[0]: line for line in result.output.splitlines()}
    for part in ("key", "redis", "database", "clock", "workers"):
        assert "failure" in states[part]
    assert "warning" in states["bells"]


def test_adopting_a_database_pushes_every_row_to_a_redis_that_knows_later_ones(
    flask: Flask_, call: Request, instance: str, redis_client: redis.Redis
) -> None:
    before = models.epoch()
    config = f"evo:{{p0}}:config:{models.Instance.get().outbox}"
    redis_client.hset(config, "revision", 1000)  # Redis saw changes that the backup had not
    assert call("POST", "/event/emit/a", {"event": "CALL", "data": 1}).status_code == 503

    said = flask("db", "adopt").output

    assert models.epoch() != before
    assert models.epoch() in said
    assert "1 instance was pushed" in said
    assert call("POST", "/event/emit/a", {"event": "CALL", "data": 1}).status_code == 202
    assert "0 findings" in flask("audit", "--deep").output


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("ENCRYPTION_KEY", "", "ENCRYPTION_KEY is not set"), ("PORT", "x", "PORT must be")],
)
def test_a_command_that_cannot_begin_says_why_in_a_sentence(
    root: Path, tmp_path: Path, name: str, value: str, says: str
) -> None:
    env = {"PATH": os.environ["PATH"], "EVOFLASK_HOME": str(tmp_path), name: value}

    said = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "db", "upgrade"],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
    )

    assert said.returncode == 1
    assert says in said.stderr
    assert "Traceback" not in said.stderr


def test_the_commands_work_as_a_person_types_them(
    root: Path, settings: Callable[..., Settings], redis_url: str
) -> None:
    made = settings()
    env = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EVOFLASK_HOME": str(made.home),
        "REDIS_URL": redis_url,
    }
    vault.make_key(made.home)  # as `make run` does; whoever types in its home finds it there

    def flask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flask", "--app", "app", *arguments]
        return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)

    assert flask("db", "upgrade").stdout.split() == sorted(
        each.stem for each in (root / "migrations").glob("0*.py")
    )
    assert flask("audit", "--deep").returncode == 0
    refused = flask("emit", "nope", "call", "1")
    assert refused.returncode == 2
    assert refused.stderr.endswith('evoflask: The "nope" instance does not exist\n')
    doctor = flask("doctor")
    assert doctor.returncode == 1
    assert "AUTHENTICATION_API_KEY is not set" in doctor.stdout


def test_a_long_list_of_lanes_is_read_in_pages(flask: Flask_, call: Request, instance: str) -> None:
    row = models.Instance.get()
    base = dict(models.Subscription.select().dicts().get())
    for name in ("id", "lane", "name"):
        del base[name]
    for n in range(450):
        models.Subscription.create(**base | {"name": f"s{n}", "instance": row})
    began = time.monotonic()

    lines = flask("lanes").output.splitlines()

    assert len(lines) == 452
    assert time.monotonic() - began < 5
