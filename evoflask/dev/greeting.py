"""The text that `make run` and `make run-all` print once the web process answers."""

from __future__ import annotations

import shlex

from evoflask.dev.process import free_port
from evoflask.settings import Settings

_HEAD = """\
evoflask listens on {url}
Its key is {key}
Open {url}/rq/ and log in with the key to see what could not be delivered.
"""

_RECEIVER = """
Paste this block into another terminal, in this folder. It starts a receiver, creates an
instance, points the instance's webhook at the receiver and emits an event. It ends when the
receiver has printed the event.

    export AUTHENTICATION_API_KEY={key} EVOFLASK_HOME={home}
    (
    URL={url} HOOK=http://127.0.0.1:{hook}
    post() {{ curl -sS -H "apikey: $AUTHENTICATION_API_KEY" -H 'Content-Type: application/json' "$URL$1" -d "$2"; }}
    .venv/bin/flask --app app receive --port {hook} --events 1 --seconds 60 & RECEIVER=$!
    curl -s -o /dev/null --retry 60 --retry-delay 1 --retry-connrefused $HOOK/
    post /instance/create '{{"instanceName": "demo", "integration": "EVOLUTION"}}'
    post /webhook/set/demo '{{"webhook": {{"enabled": true, "url": "'$HOOK'/hook"}}}}'
    post /event/emit/demo '{{"event": "MESSAGES_UPSERT", "data": {{"key": {{"remoteJid": "1@s.whatsapp.net"}}, "message": {{"conversation": "Hello"}}}}}}'
    wait $RECEIVER
    )
"""  # noqa: E501 - one line a command

_SIX_SINKS = """
The instance "demo" has all six sinks. What arrives at each sink is printed here. Paste this
block into another terminal to emit an event:

    export AUTHENTICATION_API_KEY={key} EVOFLASK_HOME={home}
    curl -sS -H "apikey: $AUTHENTICATION_API_KEY" -H 'Content-Type: application/json' \\
      {url}/event/emit/demo -d '{{"event": "CALL", "data": {{"n": 1}}}}'
"""

_END = """
Ctrl-C stops everything."""


def local_address(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


def greeting(settings: Settings, key: str, *, six_sinks: bool = False) -> str:
    """Return the greeting with one block to paste.

    `six_sinks`: the instance of `make run-all` exists already, so the block only emits.
    """
    block = _HEAD + (_SIX_SINKS if six_sinks else _RECEIVER) + _END
    return block.format(
        url=f"http://{local_address(settings.web_host)}:{settings.port}",
        key=shlex.quote(key),
        home=shlex.quote(str(settings.home)),
        hook=free_port(),
    )
