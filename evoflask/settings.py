"""The environment, read in one place, once. Every field is enforced by somebody.

`python -m evoflask.settings` prints `docs/settings.md`; a test compares the two.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import ipaddress
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from evoflask import redislink
from evoflask.errors import Misconfigured

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SOCKET_PATH_BYTES = 100
"""The kernel takes 107 bytes of path for a unix socket; the rest is for temporary names."""


@dataclass(frozen=True, slots=True)
class About:
    """What the manual says about one field, and how its words are read."""

    env: str
    meaning: str
    read: Callable[[str], Any]
    """Raises `ValueError` whose text ends the sentence "PORT ... "."""
    unit: str = ""
    default: str | None = None
    """What the manual shows as default; None: the field's own."""
    also: tuple[str, ...] = ()
    """Variables of others that count where this one is unset."""

    def text(self, environ: Mapping[str, str]) -> str:
        """The value as it stands in the environment; "": unset."""
        found = (environ.get(env, "").strip() for env in (self.env, *self.also))
        return next(filter(None, found), "")


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def number(low: float, high: float) -> Callable[[str], float]:
    """A reader of numbers from `low` to `high`, both allowed."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return value

    return read


def url(*schemes: str) -> Callable[[str], str]:
    """A reader of URLs. Its complaint never shows the value, which may carry a password."""

    def read(text: str) -> str:
        try:
            parts = urlsplit(text)
            good = parts.scheme in schemes and bool(parts.netloc or parts.path)
        except ValueError:
            good = False
        if not good:
            raise ValueError("must be a URL that begins with " + " or ".join(schemes))
        return text

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of one word out of a list, in any case."""

    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return text.lower()

    return read


def region(text: str) -> str:
    """A reader of a region's name, which becomes part of a signature."""
    if not re.fullmatch(r"[a-z0-9\-]{1,63}", text, re.ASCII):
        raise ValueError("must be the name of a region, such as eu-west-1")
    return text


def host(text: str) -> str:
    """A reader of a host: a name, an IPv4 address, or an IPv6 address in brackets."""
    if not re.fullmatch(r"[A-Za-z0-9_.\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", text, re.ASCII):
        raise ValueError("must be a host alone, without scheme and port")
    return text


def key(text: str) -> str:
    """A reader of the global key: what fits into a header."""
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", text, re.ASCII):
        raise ValueError("must be 1 to 256 printable ASCII characters without space")
    return text


def networks(text: str) -> tuple[Network, ...]:
    """A reader of networks, `10.0.0.0/8, ::1/128`."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError:
            raise ValueError(f"must be a list of networks, and {part!r} is none") from None
    return tuple(found)


def origins(text: str) -> tuple[str, ...]:
    """A reader of a browser's origins, `https://a.example, http://localhost:3000`."""
    found = tuple(part.strip().lower().rstrip("/") for part in text.split(",") if part.strip())
    for each in found:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+", each, re.ASCII):
            raise ValueError(f"must be a list of origins, and {each!r} is none")
    return found


def signing_secret(text: str) -> str:
    """A reader of a secret that webhooks are signed with. Its complaint never shows it."""
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return text


def boolean(text: str) -> bool:
    """A reader of `true` and `false`."""
    if text.lower() not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text.lower() == "true"


def named_keys(text: str) -> tuple[tuple[str, str], ...]:
    """A reader of `name:key,name:key`. Its complaint never shows a key."""
    found = []
    for each in text.split(","):
        name, colon, secret = each.strip().partition(":")
        if not colon or not re.fullmatch(r"[a-z0-9-]{1,40}", name) or name in _OTHERS:
            raise ValueError("must be a list of name:key, names of a-z, 0-9 and -")
        if not re.fullmatch(r"[!-~]{16,128}", secret):
            raise ValueError(f"must have a key of 16 to 128 printable characters for {name}")
        found.append((name, secret))
    return tuple(found)


def fernet_keys(text: str) -> tuple[str, ...]:
    """A reader of keys that seal, `new,old`. Its complaint never shows them."""
    found = tuple(each.strip() for each in text.split(","))
    for each in found:
        try:
            size = len(base64.b64decode(each, altchars=b"-_", validate=True))
        except ValueError:
            size = 0
        if size != 32:
            raise ValueError("must be keys of 32 bytes in URL-safe base64, separated by commas")
    if len(found) > 10:
        raise ValueError("must be ten keys at most")
    return found


def schedule(text: str) -> tuple[float, ...]:
    """A reader of waits in seconds, `5, 30, 120`."""
    read = number(0, 604_800)
    try:
        waits = tuple(read(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("must be a list of seconds, each from 0 to 604800") from None
    if len(waits) > 100:
        raise ValueError("must have at most 100 waits")
    return waits


def _field(default: Any, about: About, *, secret: bool = False) -> Any:
    return dataclasses.field(default=default, repr=not secret, metadata={"about": about})


_OTHERS = ("global", "cli", "clock", "dashboard", "instance")
"""Names that stand for somebody else in the audit log."""
_DATABASE = ("sqlite", "postgresql", "postgres")
_NEXT_URL = re.compile(r",\s*(?=[a-z]+://)")
"""Between the URLs of several servers of one cluster."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that may be set. Built once by a composition root and handed down."""

    port: int = _field(8080, About("PORT", "Port of the web process.", whole(1, 65_535)))
    web_host: str = _field(
        "0.0.0.0",  # noqa: S104 - containers and platforms expect every address
        About(
            "WEB_HOST",
            "Address on which the web process listens. `make run` sets `127.0.0.1`; "
            "`WEB_HOST=0.0.0.0 make run` opens it to the network.",
            host,
        ),
    )
    home: Path = _field(  # noqa: RUF009 - a path is immutable
        Path("var"),
        About("EVOFLASK_HOME", "Folder of the embedded data: SQLite, Redis, the made key.", Path),
    )
    api_key: str = _field(
        "",
        About(
            "AUTHENTICATION_API_KEY",
            "The global key. The server refuses to start without it; `make run` makes one and "
            "keeps it in the home.",
            key,
            default="none",
        ),
        secret=True,
    )
    api_keys: tuple[tuple[str, str], ...] = _field(
        (),
        About(
            "API_KEYS",
            "More global keys, `name:key,name:key`: the name stands in the audit log, and a key is "
            "exchanged by adding the new one before the old one is taken away.",
            named_keys,
            default="none",
        ),
        secret=True,
    )
    api_keys_read_only: tuple[tuple[str, str], ...] = _field(
        (),
        About(
            "API_KEYS_READ_ONLY",
            "Keys that may see everything a global key may, and change nothing, `name:key`.",
            named_keys,
            default="none",
        ),
        secret=True,
    )
    expose_tokens: bool = _field(
        False,
        About(
            "AUTHENTICATION_EXPOSE_IN_FETCH_INSTANCES",
            "Whether `fetchInstances` shows tokens, as Evolution API does. They are stored then, "
            "sealed, from the next create or rotation on; else only their digest is.",
            boolean,
            default="`false`",
        ),
    )
    auth_failures_per_minute: int = _field(
        30,
        About(
            "AUTH_FAILURES_PER_MINUTE",
            "Wrong keys of one address in each web worker process. Further wrong ones within the "
            "minute are answered 429. A right key always passes.",
            whole(1, 1_000_000),
            "failures",
        ),
    )
    trusted_proxies: tuple[Network, ...] = _field(
        (),
        About(
            "TRUSTED_PROXIES",
            "Networks of the proxies in front, `10.0.0.0/8`. Only their `X-Forwarded-For`, "
            "`-Proto`, `-Host` and `-Prefix` count: for the client's address, links, redirects and "
            "`Secure` cookies. Behind a proxy that is not named all clients are one address.",
            networks,
            default="none",
        ),
    )
    metrics_open: bool = _field(
        False,
        About(
            "METRICS_OPEN",
            "Whether `/metrics` answers without a key.",
            boolean,
            default="`false`",
        ),
    )
    encryption_key: tuple[str, ...] = _field(
        (),
        About(
            "ENCRYPTION_KEY",
            "What secrets are sealed with in the database: 32 bytes in URL-safe base64; several, "
            "separated by commas, while one is replaced, the new one first. Nothing starts "
            "without it; `make run` makes one and keeps it in the home, where it is found when "
            "this is not set.",
            fernet_keys,
            default="the file `encryptionkey` in the home, else none",
        ),
        secret=True,
    )
    redis_url: str = _field(
        "",
        About(
            "REDIS_URL",
            "The outbox: `redis://`, `rediss://`, `unix://` or `redis+sentinel://`.",
            redislink.check,
            default="the server that `make run` starts in the home",
        ),
        secret=True,
    )
    rq_redis_url: str = _field(
        "",
        About("RQ_REDIS_URL", "RQ's bells.", redislink.check, default="`REDIS_URL`"),
        secret=True,
    )
    grace_seconds: int = _field(
        25,
        About(
            "GRACE_SECONDS",
            "How long web and worker may take to end after a SIGTERM: requests and deliveries "
            "under way are finished, sockets closed with a code. The clock ends within two. What "
            "kills them must wait longer.",
            whole(5, 600),
            "s",
        ),
    )
    heartbeat_file: Path | None = _field(  # noqa: RUF009 - as above
        None,
        About(
            "HEARTBEAT_FILE",
            "A file that worker and clock touch each second while their loops turn, for "
            "`python -m workers.alive`; one for each process, on no disk (`/dev/shm`).",
            Path,
            default="none",
        ),
    )
    redis_wait_replicas: int = _field(
        0,
        About(
            "REDIS_WAIT_REPLICAS",
            "How many replicas of the outbox must have an event before it is answered 202; fewer "
            "in time is a 503, and the event may or may not survive a failover. 0: a failover may "
            "lose what the replicas did not have yet.",
            whole(0, 10),
            "replicas",
        ),
    )
    redis_wait_seconds: float = _field(
        1.0,
        About(
            "REDIS_WAIT_SECONDS",
            "How long they may take.",
            number(0.05, 1.5),
            "s",
        ),
    )
    redis_wait_aof: bool = _field(
        False,
        About(
            "REDIS_WAIT_AOF",
            "Answer 202 only after Redis has written the event to its disk (fsync), by WAITAOF. "
            "Needs Redis 7.2 or newer, or Valkey, with `appendonly yes`; with another server every "
            "event is refused, 503. With `appendfsync everysec` an answer takes up to two seconds. "
            "Use `always` if single events come one after the other.",
            boolean,
            default="`false`",
        ),
    )
    database_url: str = _field(
        "",
        About(
            "DATABASE_URL",
            "Configuration and dead letters.",
            url(*_DATABASE),
            default="`sqlite:///` and `evoflask.db` in the home",
        ),
        secret=True,
    )
    database_connections: int = _field(
        20,
        About(
            "DATABASE_CONNECTIONS",
            "Connections to PostgreSQL that one process has at most; who needs one more waits.",
            whole(1, 1_000),
            "connections",
        ),
    )
    database_wait_seconds: float = _field(
        5.0,
        About(
            "DATABASE_WAIT_SECONDS",
            "How long PostgreSQL is waited for where it is not there or others are in the way: "
            "for a new connection, a free one, a locked row.",
            number(1, 60),
            "seconds",
        ),
    )
    database_statement_seconds: float = _field(
        30.0,
        About(
            "DATABASE_STATEMENT_SECONDS",
            "How long one statement, or a transaction that stands still, may take in PostgreSQL; "
            "migrations take as long as they take.",
            number(1, 3_600),
            "seconds",
        ),
    )
    outbox_partitions: int = _field(
        1,
        About(
            "OUTBOX_PARTITIONS",
            "Over how many hash tags new instances are spread; for Redis Cluster.",
            whole(1, 1024),
        ),
    )
    server_url: str = _field(
        "",
        About(
            "SERVER_URL",
            "`server.url` in payloads whose emit names none.",
            url("http", "https"),
            default="none",
        ),
    )
    inline_body_bytes: int = _field(
        32_768,
        About(
            "INLINE_BODY_BYTES",
            "`data` above this lies beside its entry, so that a read of many stays small.",
            whole(0, 16_777_216),
            "bytes",
        ),
    )
    outbox_retain_entries: int = _field(
        1_000,
        About(
            "OUTBOX_RETAIN_ENTRIES",
            "How many delivered entries an outbox keeps for resume and replay.",
            whole(0, 1_000_000),
            "entries",
        ),
    )
    outbox_retain_seconds: int = _field(
        900,
        About(
            "OUTBOX_RETAIN_SECONDS",
            "How long it keeps them.",
            whole(0, 604_800),
            "seconds",
        ),
    )
    lane_backlog_seconds: int = _field(
        259_200,
        About(
            "LANE_BACKLOG_SECONDS",
            "How old a waiting entry may get; past it it becomes a dead letter, `expired`.",
            whole(1, 31_536_000),
            "seconds",
        ),
    )
    lane_backlog_entries: int = _field(
        1_000_000,
        About(
            "LANE_BACKLOG_ENTRIES",
            "How many entries may wait on one lane; past it the oldest expire.",
            whole(1, 100_000_000),
            "entries",
        ),
    )
    lane_backlog_bytes: int = _field(
        268_435_456,
        About(
            "LANE_BACKLOG_BYTES",
            "How many bytes may wait on one lane; past it the oldest expire.",
            whole(1, 1_099_511_627_776),
            "bytes",
        ),
    )
    idempotency_seconds: int = _field(
        3_600,
        About(
            "IDEMPOTENCY_SECONDS",
            "How long a caller's event id is remembered: a repeat appends nothing, other content "
            "is refused.",
            whole(1, 604_800),
            "seconds",
        ),
    )
    idempotency_ids: int = _field(
        100_000,
        About(
            "IDEMPOTENCY_IDS",
            "How many ids of one instance are remembered.",
            whole(1, 10_000_000),
            "ids",
        ),
    )
    max_body_bytes: int = _field(
        16_777_216,
        About("MAX_BODY_BYTES", "Largest request body.", whole(1_024, 1_073_741_824), "bytes"),
    )
    max_batch: int = _field(
        10_000,
        About("MAX_BATCH", "Most events in one request.", whole(1, 1_000_000), "events"),
    )
    max_instances: int = _field(
        0,
        About(
            "MAX_INSTANCES",
            "How many instances there may be; one more is refused, 409. 0: no limit.",
            whole(0, 100_000_000),
            "instances",
        ),
    )
    max_subscriptions: int = _field(
        100,
        About(
            "MAX_SUBSCRIPTIONS",
            "How many subscriptions an instance may have, the six of the sinks' own names counted; "
            "one more is refused, 409.",
            whole(1, 10_000),
            "subscriptions",
        ),
    )
    max_events_per_second: float = _field(
        0.0,
        About(
            "MAX_EVENTS_PER_SECOND",
            "How many events of one instance are accepted a second, by all processes together; "
            "more are refused, 429 with `Retry-After`. Repeats of an id, requeued letters and "
            "replays do not count. 0: no limit.",
            number(0, 1_000_000),
            "events/s",
        ),
    )
    max_events_burst: int = _field(
        1_000,
        About(
            "MAX_EVENTS_BURST",
            "How many of these may come at once, after a time with fewer.",
            whole(100, 10_000_000),
            "events",
        ),
    )
    max_url_length: int = _field(
        2_048,
        About("MAX_URL_LENGTH", "Longest URL of a webhook.", whole(16, 2_048), "characters"),
    )
    max_headers: int = _field(
        50, About("MAX_HEADERS", "Headers of a webhook's own.", whole(0, 50), "headers")
    )
    max_headers_bytes: int = _field(
        16_384,
        About(
            "MAX_HEADERS_BYTES",
            "Their names and values together.",
            whole(0, 204_800),
            "bytes",
        ),
    )
    webhook_allow_networks: tuple[Network, ...] = _field(
        (),
        About(
            "WEBHOOK_ALLOW_NETWORKS",
            "Private networks that webhooks may reach all the same, `10.0.0.0/8, ::1/128`. "
            "`make run` allows loopback.",
            networks,
            default="none",
        ),
    )
    outbound_proxy: str = _field(
        "",
        About(
            "OUTBOUND_PROXY",
            "An HTTP proxy for what goes to hosts that tenants choose: webhooks, Pusher, SQS; not "
            "for servers of one's own (`PUSHER_HOST`, `SQS_ENDPOINT_URL`, brokers). Proxies in "
            "the usual variables of the environment are not used.",
            url("http"),
            default="none",
        ),
        secret=True,
    )
    hold_seconds: float = _field(
        15.0,
        About(
            "HOLD_SECONDS",
            "How long a drain has a lane before it must renew; what a killed worker delays.",
            number(2, 600),
            "seconds",
        ),
    )
    quick_slots: int = _field(
        256,
        About(
            "QUICK_SLOTS",
            "Deliveries under way at once in one worker process that are younger than a second, "
            "of each sink; of RabbitMQ four times as many.",
            whole(1, 100_000),
        ),
    )
    slow_slots: int = _field(
        4_000,
        About("SLOW_SLOTS", "The same, older than a second.", whole(1, 100_000)),
    )
    drain_bytes: int = _field(
        67_108_864,
        About(
            "DRAIN_BYTES",
            "Bodies that one worker process has in memory at once.",
            whole(1_048_576, 68_719_476_736),
            "bytes",
        ),
    )
    retry_schedule: tuple[float, ...] = _field(
        (5.0, 30.0, 120.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 43_200.0),
        About(
            "RETRY_SCHEDULE",
            "Waits between attempts where the subscription names none; after the last one the "
            "event becomes a dead letter.",
            schedule,
            "seconds",
        ),
    )
    retry_jitter: float = _field(
        0.2,
        About("RETRY_JITTER", "Each wait is spread by this share, both ways.", number(0, 0.9)),
    )
    retry_after_cap: float = _field(
        3_600.0,
        About(
            "RETRY_AFTER_CAP",
            "Longest wait that a destination's Retry-After may ask for.",
            number(0, 604_800),
            "seconds",
        ),
    )
    breaker_threshold: int = _field(
        5,
        About(
            "BREAKER_THRESHOLD",
            "How many different events in a row must fail before a lane pauses.",
            whole(1, 1_000),
            "events",
        ),
    )
    webhook_connect_timeout: float = _field(
        10.0,
        About(
            "WEBHOOK_CONNECT_TIMEOUT",
            "Time for name, connection and TLS of a webhook, within the subscription's timeout.",
            number(0.1, 120),
            "seconds",
        ),
    )
    audit_log_retain_seconds: int = _field(
        31_536_000,
        About(
            "AUDIT_LOG_RETAIN_SECONDS",
            "How long the audit log keeps what was done by hand.",
            whole(3600, 315_360_000),
            "seconds",
        ),
    )
    deadletter_key_seconds: int = _field(
        86_400,
        About(
            "DEADLETTER_KEY_SECONDS",
            "How long a requeued or discarded letter's row stays without its body, so that a "
            "late worker cannot write it again.",
            whole(60, 2_592_000),
            "seconds",
        ),
    )
    deadletter_mirror: int = _field(
        1_000,
        About(
            "DEADLETTER_MIRROR",
            "How many of the newest dead letters, those that expired left out, are shown as "
            "failed jobs in rq-dashboard; 0: none.",
            whole(0, 10_000),
            "letters",
        ),
    )
    dashboard_session_seconds: int = _field(
        43_200,
        About(
            "DASHBOARD_SESSION_SECONDS",
            "How long a login to `/rq/` lasts.",
            whole(60, 2_592_000),
            "seconds",
        ),
    )
    attempts_log: str = _field(
        "all",
        About(
            "ATTEMPTS_LOG",
            "Which attempts the delivery log keeps: `all`, `failures`, or `off`.",
            one_of("all", "failures", "off"),
        ),
    )
    attempts_retain_seconds: int = _field(
        604_800,
        About(
            "ATTEMPTS_RETAIN_SECONDS",
            "How long an attempt stays in the delivery log.",
            whole(60, 31_536_000),
            "seconds",
        ),
    )
    attempts_retain_entries: int = _field(
        1_000_000,
        About(
            "ATTEMPTS_RETAIN_ENTRIES",
            "Attempts in the delivery log at most, the newest; about half a kilobyte of disk each.",
            whole(1_000, 100_000_000),
        ),
    )
    deadletter_retain_seconds: int = _field(
        7_776_000,
        About(
            "DEADLETTER_RETAIN_SECONDS",
            "How old a dead letter may get that nobody requeues or discards; past it it is "
            "discarded.",
            whole(3_600, 315_360_000),
            "seconds",
        ),
    )
    deadletter_retain_entries: int = _field(
        5_000_000,
        About(
            "DEADLETTER_RETAIN_ENTRIES",
            "How many of them there may be; past it the oldest are discarded.",
            whole(1, 1_000_000_000),
            "letters",
        ),
    )
    auto_disable_failures: int = _field(
        0,
        About(
            "AUTO_DISABLE_FAILURES",
            "After so many failed attempts without a success between them a subscription is "
            "disabled, its backlog kept; 0: never.",
            whole(0, 1_000_000),
            "attempts",
        ),
    )
    auto_disable_seconds: int = _field(
        86_400,
        About(
            "AUTO_DISABLE_SECONDS",
            "The first of them must be so long ago, at least.",
            whole(0, 31_536_000),
            "seconds",
        ),
    )
    operator_webhook_url: str = _field(
        "",
        About(
            "OPERATOR_WEBHOOK_URL",
            "Who is told that a subscription fails, pauses, is disabled, recovers, or has new "
            "dead letters. `WEBHOOK_ALLOW_NETWORKS` counts for it too.",
            url("http", "https"),
            default="nobody",
        ),
        secret=True,
    )
    operator_webhook_secret: str = _field(
        "",
        About(
            "OPERATOR_WEBHOOK_SECRET",
            "What these are signed with, `whsec_...` as of any webhook.",
            signing_secret,
            default="they are not signed",
        ),
        secret=True,
    )
    log_level: str = _field(
        "info",
        About(
            "LOG_LEVEL",
            "How much is logged: debug, info, warning or error.",
            one_of("debug", "info", "warning", "error"),
        ),
    )
    log_format: str = _field(
        "text",
        About(
            "LOG_FORMAT",
            "How: text, a line of `name=value`, or json, a line with an object.",
            one_of("text", "json"),
        ),
    )
    traces: str = _field(
        "off",
        About(
            "TRACES",
            "Whether web and workers export traces by OpenTelemetry (requirements-otel.txt); "
            "where to and how many, `OTEL_*` says, as everywhere.",
            one_of("on", "off"),
        ),
    )
    web_concurrency: int = _field(
        2, About("WEB_CONCURRENCY", "Web worker processes.", whole(1, 256), "processes")
    )
    web_threads: int = _field(
        16,
        About(
            "WEB_THREADS",
            "Threads of each web worker process. A token holds at most half of them at once.",
            whole(1, 1_024),
            "threads",
        ),
    )
    web_connections: int = _field(
        4_096,
        About(
            "WEB_CONNECTIONS",
            "Connections of each web worker process beside those that are being answered; with "
            "one more the one that has been idle longest is closed.",
            whole(1, 60_000),
            "connections",
        ),
    )
    web_idle_seconds: int = _field(
        5,
        About(
            "WEB_IDLE_SECONDS",
            "How long a connection is kept open for its next request.",
            whole(1, 3_600),
            "seconds",
        ),
    )
    web_head_seconds: float = _field(
        10.0,
        About(
            "WEB_HEAD_SECONDS",
            "How long a client may take for a request's head, and for the first bytes of its "
            "body; past it the answer is 408.",
            number(0.1, 3_600),
            "seconds",
        ),
    )
    web_body_bytes_per_second: int = _field(
        1_000,
        About(
            "WEB_BODY_BYTES_PER_SECOND",
            "How fast a body must come after that, on average; else 408.",
            whole(1, 1_000_000_000),
            "bytes/s",
        ),
    )
    web_buffer_bytes: int = _field(
        268_435_456,
        About(
            "WEB_BUFFER_BYTES",
            "Bytes of requests, packed and unpacked, and of large answers that each web worker "
            "process holds. Beyond it a further large request is answered 503, and the oldest that "
            "is arriving is refused. Requests without a known key share a sixteenth of it.",
            whole(65_536, 1 << 40),
            "bytes",
        ),
    )
    web_read_bytes: int = _field(
        134_217_728,
        About(
            "WEB_READ_BYTES",
            "Bytes of events above 64 kB that reads hold at once in each web worker process, until "
            "their clients have them; a key or token has a quarter. One more read is answered 429 "
            "or 503, a websocket's waits.",
            whole(1_048_576, 1 << 40),
            "bytes",
        ),
    )
    web_send_seconds: float = _field(
        30.0,
        About(
            "WEB_SEND_SECONDS",
            "How long a client may take for its answer, before it is cut.",
            number(0.1, 3_600),
            "seconds",
        ),
    )
    worker_processes: int = _field(
        1,
        About(
            "WORKER_PROCESSES",
            "How many workers `make run` starts; a platform scales the Procfile's line itself.",
            whole(1, 64),
            "processes",
        ),
    )
    websocket_max_clients: int = _field(
        100,
        About(
            "WEBSOCKET_MAX_CLIENTS",
            "Sockets of each web worker process, beside its threads for requests; one more is "
            "answered 503.",
            whole(0, 10_000),
            "sockets",
        ),
    )
    websocket_max_per_token: int = _field(
        50,
        About(
            "WEBSOCKET_MAX_PER_TOKEN",
            "How many of these one instance's token may open, so that no tenant takes all of them; "
            "one more is answered 429. Sockets of global keys are counted in all alone.",
            whole(1, 10_000),
            "sockets",
        ),
    )
    websocket_queue: int = _field(
        1_000,
        About(
            "WEBSOCKET_QUEUE",
            "Messages that one socket has ready to be sent; the rest waits in the outbox.",
            whole(1, 1_000_000),
            "messages",
        ),
    )
    websocket_queue_bytes: int = _field(
        1_048_576,
        About(
            "WEBSOCKET_QUEUE_BYTES",
            "The same in bytes; a page of the outbox, or one message, may go beyond it.",
            whole(1_024, 1_073_741_824),
            "bytes",
        ),
    )
    websocket_stall_seconds: float = _field(
        15.0,
        About(
            "WEBSOCKET_STALL_SECONDS",
            "How long a socket may take none of what is ready before it is cut, code 4008.",
            number(0.1, 3_600),
            "seconds",
        ),
    )
    websocket_ping_seconds: float = _field(
        25.0,
        About(
            "WEBSOCKET_PING_SECONDS",
            "How often a socket is pinged.",
            number(0.1, 3_600),
            "seconds",
        ),
    )
    websocket_idle_seconds: float = _field(
        60.0,
        About(
            "WEBSOCKET_IDLE_SECONDS",
            "How long a socket may be silent, pongs included, before it is closed, code 4009.",
            number(0.1, 86_400),
            "seconds",
        ),
    )
    websocket_origins: tuple[str, ...] = _field(
        (),
        About(
            "WEBSOCKET_ORIGINS",
            "Origins of web pages that may open sockets, `https://a.example`; clients that are "
            "no browsers name none.",
            origins,
            default="any: the key decides",
        ),
    )
    rabbitmq_uri: str = _field(
        "",
        About("RABBITMQ_URI", "The RabbitMQ server.", url("amqp", "amqps"), default="none"),
        secret=True,
    )
    nats_uri: str = _field(
        "",
        About("NATS_URI", "The NATS server.", url("nats", "tls", "ws", "wss"), default="none"),
        secret=True,
    )
    sqs_region: str = _field(
        "",
        About(
            "SQS_REGION",
            "The region of queues whose URL names none.",
            region,
            default="`AWS_REGION`, else `AWS_DEFAULT_REGION`, else none",
            also=("AWS_REGION", "AWS_DEFAULT_REGION"),
        ),
    )
    sqs_endpoint_url: str = _field(
        "",
        About(
            "SQS_ENDPOINT_URL",
            "Where SQS answers, where that is not the region's own address: a VPC endpoint, or "
            "a compatible server, whose queue URLs are then allowed too.",
            url("http", "https"),
            default="none",
        ),
    )
    sqs_threads: int = _field(
        16,
        About(
            "SQS_THREADS",
            "Calls to SQS under way at once in one worker process that are younger than a "
            "second; older ones have sixteen times as many threads.",
            whole(1, 64),
            "threads",
        ),
    )
    pusher_host: str = _field(
        "",
        About(
            "PUSHER_HOST",
            "A Pusher-compatible server of one's own, for all subscriptions; it may be anywhere.",
            host,
            default="none: Pusher's, by the subscription's `cluster`",
        ),
    )
    pusher_port: str = _field(
        "",
        About(
            "PUSHER_PORT",
            "Its port.",
            lambda text: str(whole(1, 65_535)(text)),
            default="443, or 80 without TLS",
        ),
    )

    def __post_init__(self) -> None:
        """Fills in what follows from other fields."""
        fill = object.__setattr__
        fill(self, "home", self.home.expanduser().absolute())
        if not self.redis_url:
            fill(self, "redis_url", "unix://" + quote(str(embedded_socket(self.home))))
        if not self.rq_redis_url:
            fill(self, "rq_redis_url", self.redis_url)
        if not self.database_url:
            fill(self, "database_url", f"sqlite:///{self.home / 'evoflask.db'}")

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Reads the environment; an empty value counts as unset.

        Raises `Misconfigured` with one sentence for each value that is wrong.
        """
        values: dict[str, Any] = {}
        wrong: list[str] = []
        for field in dataclasses.fields(cls):
            about = about_of(field)
            text = about.text(environ)
            if not text:
                continue
            try:
                values[field.name] = about.read(text)
            except ValueError as error:
                wrong.append(f"{about.env} {error}.")
        named = [*values.get("api_keys", ()), *values.get("api_keys_read_only", ())]
        if len({name for name, _ in named}) < len(named):
            wrong.append("API_KEYS and API_KEYS_READ_ONLY must not name two keys alike.")
        if wrong:
            raise Misconfigured(*wrong)
        return cls(**values)

    @property
    def threads(self) -> int:
        """Threads of a web worker process. A socket keeps one; any other may serve a request."""
        return self.web_threads + self.websocket_max_clients

    def secrets(self) -> tuple[str, ...]:
        """What must never be printed: the global key and what lets in inside URLs, as it is
        written there and decoded. The longest first: one may be a part of another."""
        urls = [self.database_url, self.rabbitmq_uri]
        urls += [self.operator_webhook_url, self.outbound_proxy]
        found = {self.api_key, *(urlsplit(each).password or "" for each in urls)}
        found |= redislink.secrets(self.redis_url) | redislink.secrets(self.rq_redis_url)
        found |= {self.operator_webhook_secret, *self.encryption_key}
        found |= {key for _, key in (*self.api_keys, *self.api_keys_read_only)}
        for option in urlsplit(self.database_url).query.split("&"):
            if option.startswith(("password=", "sslpassword=")):  # libpq takes them there too
                found.add(option.partition("=")[2])
        for each in map(urlsplit, _NEXT_URL.split(self.nats_uri)):
            # A user without a password is a token.
            found.add(each.username or "" if each.password is None else each.password)
        found |= {unquote(each) for each in found}
        return tuple(sorted(filter(None, found), key=len, reverse=True))


def about_of(field: dataclasses.Field[Any]) -> About:
    """What the manual says about a field of `Settings`."""
    about: About = field.metadata["about"]
    return about


def embedded_socket(home: Path) -> Path:
    """Where the embedded Redis of a home listens.

    In the home, or, when that path is too long for a socket, in a private folder of the
    system's temporary one whose name follows from the home.
    """
    socket = home / "redis" / "redis.sock"
    if len(os.fsencode(socket)) <= _SOCKET_PATH_BYTES:
        return socket
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"evoflask-{os.getuid()}-{name}" / "redis.sock"


def manual() -> str:
    """The text of `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Read from the environment, once, when a process starts; an empty value counts as unset. "
        "A wrong one stops the start with a sentence. Written by `make docs` from "
        "`evoflask/settings.py`.",
        "",
        "| variable | default | unit | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for field in dataclasses.fields(Settings):
        about = about_of(field)
        default = _shown(field.default) if about.default is None else about.default
        lines.append(f"| `{about.env}` | {default} | {about.unit} | {about.meaning} |")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "`" + ",".join(_shown(each).strip("`") for each in value) + "`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    print(manual(), end="")
