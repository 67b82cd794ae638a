"""A receiver of evoflask's webhooks in FastAPI: verified, each event once.

SECRET=whsec_... uvicorn examples.receiver_fastapi:app --port 9000
"""

import os

from fastapi import FastAPI, HTTPException, Request, Response

from evoflask.receiver import NotOurs, Repeats, verify

app = FastAPI()
keys = os.environ["SECRET"].split()  # two of them while one is exchanged
repeats = Repeats()


async def handle(event: dict[str, object]) -> None:
    """What you do with it."""
    print(event["event"], event["id"], flush=True)


@app.post("/hook")
async def hook(request: Request) -> Response:
    try:
        received = verify(keys, request.headers, await request.body())
    except NotOurs as error:
        raise HTTPException(401, str(error)) from error
    if not repeats.begin(received.id):
        return Response(status_code=204)
    try:
        await handle(received.event)
    except Exception:
        repeats.forget(received.id)  # a 500 brings it again
        raise
    return Response(status_code=204)
