"""A websocket client as a user would write one, over the `websockets` package."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.system.house import API_KEY, House

Message = dict[str, Any]


class Client:
    """A context manager. Keeps what it got, and the last cursor of each instance."""

    def __init__(self, house: House, key: str = API_KEY, **options: Any) -> None:
        self.cursors: dict[str, str] = {}
        self.closed: tuple[int, str] | None = None
        self.raw = b""
        self._url = f"ws://127.0.0.1:{house.port}/ws"
        self._key = key
        # With a bound to its queue, one that leaves while messages wait for it takes the
        # library's ten seconds for it: its reader stands still and hears no goodbye.
        self._options = {"max_queue": None, **options}
        self.ws: ClientConnection

    def __enter__(self) -> Self:
        headers = {"apikey": self._key}
        self._life = connect(self._url, additional_headers=headers, max_size=None, **self._options)
        self.ws = self._life.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Says goodbye."""
        self._life.__exit__(None, None, None)

    def say(self, **fields: object) -> None:
        """An action, or what is none."""
        self.ws.send(json.dumps(fields))

    def hear(self, timeout: float = 10.0) -> Message:
        """The next message. Raises `TimeoutError`, `ConnectionClosed`."""
        try:
            self.raw = self.ws.recv(timeout=timeout, decode=False)
        except ConnectionClosed as end:
            self.closed = (end.rcvd.code, end.rcvd.reason) if end.rcvd else (1006, "")
            raise
        message: Message = json.loads(self.raw)
        if message.get("cursor") and message.get("instance"):
            self.cursors[message["instance"]] = message["cursor"]
        return message

    def join(self, instance: str, after: str | None = None) -> Message:
        """What is answered."""
        more = {} if after is None else {"after": after}
        self.say(action="join-instance", instance=instance, **more)
        return self.hear()

    def leave(self, instance: str) -> Message:
        """The same."""
        self.say(action="leave-instance", instance=instance)
        return self.hear()

    def event(self, timeout: float = 10.0) -> Message:
        """The next message, which must be an event."""
        message = self.hear(timeout)
        assert message["type"] in ("evolution-event", "global-event"), message
        return message

    def numbers(self, n: int) -> list[int]:
        """`data.n` of the next events."""
        return [self.event()["data"]["n"] for _ in range(n)]

    def end(self, timeout: float = 10.0) -> tuple[int, str]:
        """Reads to the end; the close code and reason."""
        try:
            while True:
                self.hear(timeout)
        except ConnectionClosed:
            assert self.closed is not None
            return self.closed

    def silent(self) -> None:
        """Nothing comes: whatever was on its way comes before the answer to a bad word."""
        self.say(action="nothing")
        message = self.hear()
        assert message["type"] == "error", message
