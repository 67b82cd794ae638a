"""`make run-all`: every kind of destination beside the servers of `make run`, an instance that
uses all six, and a program that prints what arrives at each."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import requests

from evoflask.dev.nats_server import NatsServer
from evoflask.dev.process import Process, free_port
from evoflask.dev.rabbitmq_server import RabbitmqServer
from evoflask.dev.server import Server
from evoflask.dev.soketi_server import SoketiServer
from evoflask.dev.sqs_server import SqsServer
from evoflask.sinks import SINKS

INSTANCE = "demo"


class Demonstration:
    """The four servers, their data below `home`; nothing is started by making it."""

    def __init__(self, home: Path) -> None:
        self.rabbitmq = RabbitmqServer(home / "rabbitmq")
        self.nats = NatsServer(home / "nats")
        self.sqs = SqsServer(home / "sqs")
        self.app = {"appId": "1", "key": secrets.token_hex(8), "secret": secrets.token_hex(16)}
        self.soketi = SoketiServer(
            home / "soketi", self.app["appId"], self.app["key"], self.app["secret"]
        )
        self._hook = free_port()

    @property
    def servers(self) -> list[Server]:
        """In the order of their start."""
        return [self.rabbitmq, self.nats, self.sqs, self.soketi]

    def environment(self) -> dict[str, str]:
        """What web and workers must know of them."""
        return {
            "RABBITMQ_URI": self.rabbitmq.url,
            "NATS_URI": self.nats.url,
            "SQS_ENDPOINT_URL": self.sqs.endpoint,
            "SQS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "PUSHER_HOST": "127.0.0.1",
            "PUSHER_PORT": str(self.soketi.port),
        }

    def sinks(self, instance: str = INSTANCE) -> dict[str, dict[str, Any]]:
        """Settings of the six."""
        return {
            "webhook": {"enabled": True, "url": f"http://127.0.0.1:{self._hook}/{instance}"},
            "websocket": {"enabled": True},
            "rabbitmq": {"enabled": True},
            "nats": {"enabled": True},
            "sqs": {"enabled": True, "queueUrl": self.queue(instance)},
            "pusher": {"enabled": True, **self.app, "cluster": "local", "useTLS": False},
        }

    def queue(self, instance: str = INSTANCE) -> str:
        """An instance's queue."""
        return self.sqs.url(instance)

    def set_up(self, base: str, key: str) -> None:
        """The instance, made where it is missing, and its six sinks. Raises `requests`' errors."""
        with requests.Session() as session:
            session.headers["apikey"] = key
            body = {"instanceName": INSTANCE, "integration": "EVOLUTION"}
            made = session.post(f"{base}/instance/create", json=body, timeout=30)
            if made.status_code != 403:  # there from an earlier run
                made.raise_for_status()
            session.post(
                f"{base}/event/set/{INSTANCE}", json=self.sinks(), timeout=30
            ).raise_for_status()

    def watcher(
        self,
        base: str,
        key: str,
        env: Mapping[str, str],
        *instances: str,
        log: Path | None = None,
        sinks: Container[str] = SINKS,
    ) -> Process:
        """The program that prints what arrives at these sinks, not started yet."""
        names = list(instances) or [INSTANCE]
        config: dict[str, Any] = {
            "instances": names,
            "webhook": self._hook,
            "rabbitmq": self.rabbitmq.url,
            "nats": self.nats.url,
            "sqs": self.sqs.endpoint,
            "queues": {name: self.queue(name) for name in names},
            "pusher": ["127.0.0.1", self.soketi.port, self.app["key"]],
            "websocket": [f"{base.replace('http', 'ws', 1)}/ws", key],
        }
        config = {k: v for k, v in config.items() if k not in SINKS or k in sinks}
        command = [sys.executable, "-m", "evoflask.dev.watch"]
        # Not as an argument: everybody on the machine may read those.
        env = {**env, "EVOFLASK_WATCH": json.dumps(config)}
        return Process(command, name="watch", env=env, log=log)
