"""What a Redis URL means, and that it can change no bound and tell no secret."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from evoflask import redislink
from evoflask.redislink import Link, parse


def link(*nodes: tuple[str, int], service: str = "", tls: bool = False, **server: Any) -> Link:
    return Link(nodes, service, tls, tuple(sorted(server.items())), ())


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://a", link(("a", 6379), db=0)),
        ("redis://a:1/3", link(("a", 1), db=3)),
        ("redis://[::1]:1", link(("::1", 1), db=0)),
        ("redis://:p%40w@a", link(("a", 6379), db=0, password="p@w")),
        ("redis://u:p:w@a/", link(("a", 6379), db=0, username="u", password="p:w")),
        ("rediss://a/1", link(("a", 6379), tls=True, db=1)),
        ("unix:///run/re%20dis.sock", link(path="/run/re dis.sock")),
        ("unix://u:pw@/run/r.sock", link(path="/run/r.sock", username="u", password="pw")),
        ("redis+sentinel://a/main", link(("a", 26379), service="main", db=0)),
        (
            "redis+sentinel://a:1,b,[::1]:3/my.main/7",
            link(("a", 1), ("b", 26379), ("::1", 3), service="my.main", db=7),
        ),
        ("rediss+sentinel://a/main", link(("a", 26379), service="main", tls=True, db=0)),
    ],
)
def test_a_url_says_where_and_how(url: str, meant: Link) -> None:
    assert parse(url) == meant


def test_sentinels_have_credentials_of_their_own_and_the_same_authority() -> None:
    found = parse(
        "rediss+sentinel://u:pw@a/main?sentinel_username=s&sentinel_password=q%26&ssl_ca_certs=/ca"
    )

    assert dict(found.server) == {
        "username": "u",
        "password": "pw",
        "db": 0,
        "ssl_ca_certs": "/ca",
    }
    assert dict(found.sentinels) == {"username": "s", "password": "q&", "ssl_ca_certs": "/ca"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "http://a",
        "redis://",
        "redis://a,b",
        "redis://a:0",
        "redis://a:65536",
        "redis://a:hunter2",
        "redis://::1",
        "redis://[hunter2",
        "redis://a/hunter2",
        "redis://a/1/2",
        "redis://a?ssl_ca_certs=/ca",
        "redis://a?sentinel_password=hunter2",
        "redis://a?socket_timeout=hunter2",
        "rediss://a?ssl_cert_reqs=none",
        "rediss://a?ssl_check_hostname=hunter2",
        "redis://:hunter2@a?max_connections=1",
        "unix://",
        "unix://a/b.sock",
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis+sentinel://a,/main",
        "redis+sentinel://a/hunter2 main",
        "redis+sentinel://a/main/x",
        "redis+sentinel://a/main/1/2",
    ],
)
def test_any_other_is_refused_in_a_sentence_without_what_it_says(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)

    assert str(caught.value).startswith(("must ", "has "))
    assert "hunter2" not in str(caught.value)


def test_its_secrets_are_known_as_written_and_decoded() -> None:
    url = "redis+sentinel://u:a%40b@h:1,i/main?sentinel_username=s&sentinel_password=c%26d"

    assert redislink.secrets(url) == {"a%40b", "a@b", "c%26d", "c&d"}
    assert redislink.secrets("redis://h/0") == set()
    assert redislink.secrets("unix:///run/r.sock") == set()


@pytest.mark.parametrize(
    "url",
    ["redis://:hunter2@a", "redis+sentinel://:hunter2@a/main?sentinel_password=hunter2"],
)
def test_a_client_tells_no_secret_and_tries_once(url: str) -> None:
    client = redislink.connect(url, timeout=0.5, connect_timeout=0.5, connections=1)

    connection = client.connection_pool.make_connection()
    assert "hunter2" not in repr(connection)
    assert connection.retry.get_retries() == 0


def test_who_asks_no_sentinel_in_time_hears_of_a_connection_that_failed() -> None:
    url = "redis+sentinel://127.0.0.1:1,127.0.0.1:2/main"

    with (
        redislink.connect(url, timeout=0.5, connect_timeout=0.5, connections=1) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()
