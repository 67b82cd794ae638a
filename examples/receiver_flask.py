"""A receiver of evoflask's webhooks in Flask: verified, each event once.

SECRET=whsec_... flask --app examples.receiver_flask run --port 9000
"""

import os

from flask import Flask, request

from evoflask.receiver import NotOurs, Repeats, verify

app = Flask(__name__)
keys = os.environ["SECRET"].split()  # two of them while one is exchanged
repeats = Repeats()


def handle(event: dict[str, object]) -> None:
    """What you do with it."""
    print(event["event"], event["id"], flush=True)


@app.post("/hook")
def hook() -> tuple[str, int]:
    try:
        received = verify(keys, request.headers, request.get_data())
    except NotOurs as error:
        return str(error), 401
    if not repeats.begin(received.id):
        return "", 204
    try:
        handle(received.event)
    except Exception:
        repeats.forget(received.id)  # a 500 brings it again
        raise
    return "", 204
