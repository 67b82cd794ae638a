"""The environment, read once: every wrong value is one sentence, and no secret is shown."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path

import pytest

from evoflask.errors import Misconfigured
from evoflask.settings import Settings, about_of, embedded_socket, manual


def test_without_an_environment_the_defaults_hold() -> None:
    settings = Settings.from_env({})

    assert settings == Settings()
    assert settings.port == 8080
    assert settings.home == Path("var").absolute()
    assert settings.database_url == f"sqlite:///{settings.home}/evoflask.db"
    assert settings.redis_url == f"unix://{settings.home}/redis/redis.sock"
    assert settings.rq_redis_url == settings.redis_url


def test_an_empty_value_counts_as_unset() -> None:
    assert Settings.from_env({"PORT": "", "REDIS_URL": " "}) == Settings()


def test_rqs_redis_is_the_outboxs_unless_it_is_named() -> None:
    one = Settings.from_env({"REDIS_URL": "redis://a/0"})
    two = Settings.from_env({"REDIS_URL": "redis://a/0", "RQ_REDIS_URL": "redis://b/1"})

    assert one.rq_redis_url == "redis://a/0"
    assert two.rq_redis_url == "redis://b/1"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("PORT", "9", "port", 9),
        ("RETRY_SCHEDULE", "1, 2.5,3", "retry_schedule", (1.0, 2.5, 3.0)),
        ("RETRY_JITTER", "0", "retry_jitter", 0.0),
        ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
        ("EVOFLASK_HOME", "/x", "home", Path("/x")),
        ("PUSHER_PORT", "6001", "pusher_port", "6001"),
        (
            "WEBHOOK_ALLOW_NETWORKS",
            "10.0.0.0/8, ::1/128,",
            "webhook_allow_networks",
            (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")),
        ),
    ],
)
def test_a_value_is_read_into_its_type(name: str, text: str, field: str, value: object) -> None:
    assert getattr(Settings.from_env({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "80a"),
        ("PORT", "-1"),
        ("PORT", "٣"),
        ("MAX_BATCH", "1e3"),
        ("RETRY_JITTER", "nan"),
        ("RETRY_JITTER", "2"),
        ("RETRY_SCHEDULE", "5,,6"),
        ("RETRY_SCHEDULE", "-5"),
        ("RETRY_SCHEDULE", "inf"),
        ("RETRY_SCHEDULE", ",".join(["1"] * 101)),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_URL", "http://user:hunter2@host"),
        ("DATABASE_URL", "mysql://user:hunter2@host/db"),
        ("SERVER_URL", "ftp://host"),
        ("WEBHOOK_ALLOW_NETWORKS", "10.0.0.1/8"),
        ("WEBHOOK_ALLOW_NETWORKS", "everywhere"),
        ("LOG_LEVEL", "loud"),
        ("AUTHENTICATION_API_KEY", "two words"),
        ("AUTHENTICATION_API_KEY", "k\u00e9y"),
        ("PUSHER_PORT", "x"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_its_variable(name: str, text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env({name: text})

    (sentence,) = caught.value.messages
    assert sentence.startswith(f"{name} must ")
    assert sentence.endswith(".")
    assert "hunter2" not in sentence


def test_each_wrong_value_has_a_sentence_of_its_own() -> None:
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env({"PORT": "x", "MAX_BATCH": "y"})

    assert len(caught.value.messages) == 2


def test_no_secret_is_in_the_repr() -> None:
    settings = Settings(
        api_key="hunter2",
        redis_url="redis://:hunter2@a/0",
        rq_redis_url="redis://:hunter2@b/0",
        database_url="postgresql://u:hunter2@c/d",
        rabbitmq_uri="amqp://u:hunter2@d",
        nats_uri="nats://u:hunter2@e",
    )

    assert "hunter2" not in repr(settings)
    assert settings.secrets() == ("hunter2",)


def test_a_secret_is_hidden_as_it_is_written_and_as_it_is() -> None:
    settings = Settings(
        api_key="key%41",
        database_url="postgresql://u:p%40ss@c/d",
        nats_uri="nats://to%2Fken@e,tls://user:word@f, tls://g",
    )

    hidden = settings.secrets()

    assert set(hidden) >= {"key%41", "p%40ss", "p@ss", "to%2Fken", "to/ken", "word"}
    assert "user" not in hidden


def test_a_secret_that_another_begins_with_does_not_show_the_rest_of_it() -> None:
    settings = Settings(api_key="abc", redis_url="redis://:abcdef@a", nats_uri="nats://abcd@b")

    assert settings.secrets() == ("abcdef", "abcd", "abc")


def test_a_home_with_a_short_path_has_its_socket_inside() -> None:
    assert embedded_socket(Path("/srv/evo")) == Path("/srv/evo/redis/redis.sock")


def test_a_home_with_a_long_path_has_a_socket_that_fits_and_is_its_own() -> None:
    one, other = Path("/x" * 200), Path("/y" * 200)

    assert len(str(embedded_socket(one))) < 100
    assert embedded_socket(one) != embedded_socket(other)


def test_every_variable_is_named_once() -> None:
    names = [about_of(field).env for field in dataclasses.fields(Settings)]

    assert len(set(names)) == len(names)


def test_the_manual_is_what_the_settings_say(root: Path) -> None:
    assert (root / "docs" / "settings.md").read_text() == manual(), "run `make docs`"
