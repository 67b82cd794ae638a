"""boto3's clients for SQS: kept by where and as whom, and what it takes to call one in a thread.

Knows nothing of subscriptions and of what an ending means; all of it raises what boto3 does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import NoCredentialsError

from evoflask import __version__

CLIENTS = 512
"""boto3 clients kept: about 160 kB each, and 7 ms of CPU to make."""
NO_CREDENTIALS_SECONDS = 5.0
"""How long the chain is not asked again after it had none."""
LEAST_SECONDS = 0.3
"""A call is not begun with less: its answer would come too late, and be a repeat's cause."""
MARGIN = 0.05
"""Seconds before the end at which a call ends by itself, and frees its thread."""


class ClientKey(NamedTuple):
    """Who shares a client, and its connections."""

    region: str
    endpoint: str
    connect_seconds: float
    credentials: str | None
    """A hash of the subscription's own keys; None: the chain of this process."""
    proxy: str = ""


class Clients:
    """boto3 clients, made when they are needed, in the thread that needs them.

    `connections`: that one may have. A client is closed when it falls out and nobody uses it.
    """

    def __init__(self, connections: int) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[ClientKey, _Client] = OrderedDict()
        self._connections = connections
        # The chain may ask a slow metadata service: for itself to wait, it has its own.
        self._chain, self._own = _Session(), _Session()
        self._none_until = 0.0

    @contextmanager
    def use(self, key: ClientKey, keys: tuple[str, str] | None) -> Iterator[Any]:
        """A client, which stays open meanwhile. Raises what boto3 does."""
        client = self._take(key) or self._make(key, keys)
        try:
            yield client.boto
        except NoCredentialsError:
            # The client would never look again.
            self._none_until = time.monotonic() + NO_CREDENTIALS_SECONDS
            self._drop(key)
            raise
        finally:
            self._give_back(client)

    def close(self) -> None:
        """Of all: those in use follow when they are given back."""
        with self._lock:
            keys = list(self._kept)
        for key in keys:
            self._drop(key)

    def _take(self, key: ClientKey) -> _Client | None:
        with self._lock:
            client = self._kept.get(key)
            if client is not None:
                self._kept.move_to_end(key)
                client.users += 1
            return client

    def _make(self, key: ClientKey, keys: tuple[str, str] | None) -> _Client:
        session = self._own if keys else self._chain
        with session.lock:
            # Whoever had the lock before may have made it, or learnt that there are no keys.
            if (found := self._take(key)) is not None:
                return found
            if keys is None and time.monotonic() < self._none_until:
                raise NoCredentialsError
            client = _Client(session.client(key, keys, self._connections), users=1)
            with self._lock:
                self._kept[key] = client
                surplus = list(self._kept)[: max(0, len(self._kept) - CLIENTS)]
        for old in surplus:
            self._drop(old)
        return client

    def _drop(self, key: ClientKey) -> None:
        with self._lock:
            client = self._kept.pop(key, None)
            if client is None:
                return
            client.dropped = True
            idle = not client.users
        if idle:
            client.boto.close()

    def _give_back(self, client: _Client) -> None:
        with self._lock:
            client.users -= 1
            last = client.dropped and not client.users
        if last:
            client.boto.close()


@dataclass(slots=True)
class _Client:
    boto: Any
    users: int = 0
    dropped: bool = False


@dataclass(slots=True)
class _Session:
    """boto3's, made at its first use; not made for threads, so whoever uses it has the lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    boto: Any = None

    def client(self, key: ClientKey, keys: tuple[str, str] | None, connections: int) -> Any:
        """A new one. Blocks."""
        if self.boto is None:
            self.boto = boto3.session.Session()
        own = {"aws_access_key_id": keys[0], "aws_secret_access_key": keys[1]} if keys else {}
        client = self.boto.client(
            "sqs",
            region_name=key.region,
            endpoint_url=key.endpoint,
            config=_config(key, connections),
            **own,
        )
        client.meta.events.register("before-call.sqs.SendMessageBatch", _limit_call)
        client.meta.events.register("before-send.sqs.SendMessageBatch", _ask_to_send)
        return client


def _config(key: ClientKey, connections: int) -> Config:
    return Config(
        connect_timeout=key.connect_seconds,
        # {} and not None, which would mean those of the environment.
        proxies={"http": key.proxy, "https": key.proxy} if key.proxy else {},
        read_timeout=60,  # each call has its own
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=connections,
        tcp_keepalive=True,
        # Every parameter was checked before, here or by the schema: a tenth of a call's CPU.
        parameter_validation=False,
        # The queue's URL says where; AWS_USE_FIPS_ENDPOINT would contradict it.
        use_fips_endpoint=False,
        use_dualstack_endpoint=False,
        user_agent_extra=f"evoflask/{__version__}",
    )


# A call


class GivenUp(Exception):
    """Nobody waits for this call any more."""


class Call:
    """One `send_message_batch`, to be over by `end` (of `time.monotonic`)."""

    def __init__(self, queue: str, entries: Sequence[Mapping[str, Any]], end: float) -> None:
        self._queue = queue
        self._entries = entries
        self._end = end
        self._claim = [True]

    def claim(self) -> bool:
        """True for the first who asks: the thread, before it sends, or whoever gives it up."""
        try:
            return self._claim.pop()  # atomic, and no lock a call
        except IndexError:
            return False

    def run(self, clients: Clients, key: ClientKey, keys: tuple[str, str] | None) -> Any:
        """The answer. Blocks. Raises what boto3 does, or `TimeoutError`: too late to begin."""
        _here.call = self
        try:
            with clients.use(key, keys) as boto:
                if self.seconds < LEAST_SECONDS:
                    raise TimeoutError
                return boto.send_message_batch(QueueUrl=self._queue, Entries=self._entries)
        finally:
            del _here.call  # and its bodies, while this thread waits

    @property
    def seconds(self) -> float:
        """What is left."""
        return self._end - MARGIN - time.monotonic()


_here = threading.local()
"""`call`: what this thread is doing."""


def _limit_call(context: dict[str, Any], **_: Any) -> None:
    context["read_timeout"] = max(_here.call.seconds, 0.1)


def _ask_to_send(**_: Any) -> None:
    if not _here.call.claim():
        raise GivenUp


def quiet() -> None:
    """botocore's DEBUG and INFO show bodies and signatures."""
    for name in ("boto3", "botocore", "urllib3"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
