"""One line a record, without secrets."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from evoflask.log import LINES, Bounded, JsonLines, Lines, Repeats, redact


def line(message: str, *args: object, name: str = "evoflask.test", **extra: Any) -> str:
    record = logging.LogRecord(name, logging.INFO, "f", 1, message, args, None)
    vars(record).update(extra)
    return Lines(["the-global-key"]).format(record)


def test_a_record_is_one_line_of_fields() -> None:
    text = line("listening on %d", 80, port=80, sink="webhook")

    assert text.startswith("at=20")
    assert "level=info logger=evoflask.test pid=" in text
    assert text.endswith('msg="listening on 80" port=80 sink=webhook')


@pytest.mark.parametrize(
    "evil", ["a\nat=2026 level=error", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\x00b"]
)
def test_nothing_in_a_message_makes_a_second_line_or_steers_a_terminal(evil: str) -> None:
    text = line(evil, instance=evil)

    assert text.isprintable()
    assert len(text.splitlines()) == 1


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    text = line("failed", exc_info=info)

    assert len(text.splitlines()) == 1
    assert "ValueError: first" in text


def test_extras_of_foreign_loggers_are_left_out() -> None:
    assert "payload" not in line("done", name="rq.worker", arguments="payload")


@pytest.mark.parametrize(
    "text",
    [
        "redis://user:hunter2@host:6379/0",
        "cannot reach rediss://:hunter2@host",
        "amqp://u:hun@hunter2@host/vhost",
        "{'apikey': 'hunter2'}",
        'headers={"apikey": "hunter2"}',
        '"{\\"apikey\\": \\"hunter2\\"}"',
        "apikey=hunter2&x=1",
        "AUTHENTICATION_API_KEY=hunter2",
        "Authorization: Bearer hunter2",
        "authorization: Basic hunter2",
        "token: hunter2",
        "password=hunter2",
        "client_secret='hunter2'",
        "signed with whsec_hunter2",
        "it was hunter2 all along",
    ],
)
def test_no_credential_passes_the_last_door(text: str) -> None:
    assert "hunter2" not in redact(text, ["hunter2"] if "all along" in text else [])


@pytest.mark.parametrize(
    "text", ["redis://host:6379/0", "mail a@b.example", "the key was wrong", "http://h/x?y=a@b"]
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact(text) == text


def test_a_known_secret_is_hidden_wherever_it_stands() -> None:
    assert "the-global-key" not in line("caller said %s", "the-global-key", got="the-global-key")


class Clock:
    """The logger's monotonic clock, in seconds. Tests move it by hand."""

    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("evoflask.log.time.monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def repeats(caplog: pytest.LogCaptureFixture) -> Repeats:
    """Return a `Repeats` whose lines `caplog` keeps."""
    caplog.set_level(logging.INFO, "evoflask.test")
    return Repeats(logging.getLogger("evoflask.test"), every=60)


def test_a_failure_that_repeats_is_logged_once_and_again_when_it_changes(
    caplog: pytest.LogCaptureFixture, repeats: Repeats
) -> None:
    for text in ("a", "a", "b", "b"):
        repeats.tell("failed", OSError(text))
    repeats.over("works")
    repeats.over("works")

    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["failed: OSError: a", "failed: OSError: b", "works"]


def test_failures_that_take_turns_are_logged_once_each(
    caplog: pytest.LogCaptureFixture, repeats: Repeats
) -> None:
    for _ in range(100):
        repeats.tell("taking failed", OSError("a"))
        repeats.tell("settling failed", OSError("b"))

    assert len(caplog.records) == 2


def test_a_failure_that_comes_and_goes_writes_a_bounded_number_of_lines(
    caplog: pytest.LogCaptureFixture, clock: Clock, repeats: Repeats
) -> None:
    for _ in range(1000):
        repeats.tell("failed", OSError("a"))
        repeats.over("works")
    written = len(caplog.records)
    clock.now += 61
    repeats.tell("failed", OSError("a"))

    assert written <= LINES
    assert vars(caplog.records[-1])["repeated"] > 900


def test_a_failure_that_lasts_is_logged_once_a_minute_with_its_count(
    caplog: pytest.LogCaptureFixture, clock: Clock, repeats: Repeats
) -> None:
    for _ in range(180):
        repeats.tell("failed", OSError("a"))
        clock.now += 1

    counts = [vars(record).get("repeated", 0) for record in caplog.records]
    assert counts == [0, 59, 59]


def test_errors_that_differ_each_time_are_bounded_too(
    caplog: pytest.LogCaptureFixture, repeats: Repeats
) -> None:
    for n in range(1000):
        repeats.tell("failed", OSError(f"job {n}"))

    assert len(caplog.records) <= LINES


def as_json(message: str, *args: object, name: str = "evoflask.test", **extra: Any) -> Any:
    record = logging.LogRecord(name, logging.INFO, "f", 1, message, args, None)
    vars(record).update(extra)
    text = JsonLines(["the-global-key", 'pass"word']).format(record)
    assert len(text.splitlines()) == 1
    assert text.isascii()
    assert text.isprintable()
    return json.loads(text)


def test_a_record_may_be_a_json_object() -> None:
    found = as_json("sent %d", 3, event_id="e1", attempt=2, rate=0.5, ok=True, until=None)

    assert found.pop("at").startswith("20")
    assert isinstance(found.pop("pid"), int)
    assert found == {
        "level": "info", "logger": "evoflask.test", "msg": "sent 3", "event_id": "e1",
        "attempt": 2, "rate": 0.5, "ok": True, "until": None,
    }  # fmt: skip


@pytest.mark.parametrize("evil", ["a\nb", '"}', "\u2028", "\x1b[2J", "é", "\ud800", "token=5}"])
def test_whatever_stands_in_a_field_the_line_is_json(evil: str) -> None:
    assert as_json(evil, instance=evil)["level"] == "info"


def test_secrets_are_hidden_in_json_too() -> None:
    found = as_json(
        "redis://:hunter2@host",
        got="the-global-key",
        quoted='has pass"word in it',
        apikey="hunter2",
    )

    assert not {"hunter2", "the-global-key", "pass"} & set(
        json.dumps(found).replace('"', " ").split()
    )
    assert found["apikey"] == "***"
    assert found["msg"] == "redis://***@host"


def test_a_flood_of_lines_is_bounded_and_what_was_left_out_is_counted(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    lines = Bounded(logging.getLogger("evoflask.test"), logging.INFO, "dead", most=3)

    with caplog.at_level(logging.INFO, "evoflask.test"):
        for n in range(10):
            lines.tell(lambda n=n: {"event_id": n})  # type: ignore[misc]
        clock.now += 1
        lines.tell(lambda: {"event_id": 10})

    assert [vars(record)["event_id"] for record in caplog.records] == [0, 1, 2, 10]
    assert vars(caplog.records[-1])["left_out"] == 7


def test_facts_of_lines_that_nobody_wants_are_not_asked_for() -> None:
    logger = logging.getLogger("evoflask.quiet")
    logger.setLevel(logging.WARNING)

    Bounded(logger, logging.INFO, "dead").tell(lambda: pytest.fail("asked"))
