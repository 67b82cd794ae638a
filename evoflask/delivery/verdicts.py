"""What came of a test, in words that the owner of the destination understands. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from evoflask.sinks._schemes import USE_HTTPS
from evoflask.sinks.base import Attempt, Outcome

_DELIVERED: Final = {
    "webhook": "The receiver took it: it answered {code}.",
    "rabbitmq": "The broker took it and confirmed it.",
    "nats": "The server took it.",
    "sqs": "The queue took it.",
    "pusher": "Pusher took it and sent it to whoever is subscribed now.",
}
_CODES: Final = {
    "dns": "The name {host} does not exist, or its name server does not answer.",
    "refused": "Nothing listens there: {host} is up and refuses connections on this port.",
    "no-route": "There is no way to the host {host} from here.",
    "connect-timeout": "No connection came about in time: a firewall drops it, or the host is "
    "down.",
    "forbidden-address": "The address may not be reached from here: {detail}.",
    "timeout": "It was sent, and no answer came within the timeout: the receiver is too slow, or "
    "hangs.",
    "reset": "The connection broke before the answer was complete.",
    "bad-answer": "Something answers there, but not as this kind of receiver should: {detail}. "
    "Check the port.",
    "early-answer": "The receiver answered before it was sent the whole request, so the answer may "
    "belong to another request. A receiver should read a request to its end.",
    "answer-too-large": "The receiver answered with more than is read: a receiver should answer "
    "with a few bytes.",
    "url": "The URL cannot be used.",
    "login": "The broker refused the login.",
    "auth": "The server does not accept the credentials.",
    "vhost": "The broker refused the virtual host.",
    "unroutable": "The broker has no queue for it: bind one to the exchange.",
    "no-stream": "No JetStream stream takes this subject: make one, or set createStream.",
    "no-jetstream": "JetStream is off on this server: switch it on, or set jetstream to false.",
    "too-large": "The event is larger than the destination takes.",
    "blocked": "The broker takes no messages now: a memory or disk alarm.",
}
_STATUSES: Final = {
    400: "the receiver found the request malformed.",
    401: "the receiver wants other credentials: look at the subscription's headers.",
    403: "the receiver does not let us in: look at the subscription's headers, or at a firewall in "
    "front of it.",
    404: "the URL's path is wrong, or the receiver was removed.",
    405: "the URL is right but takes no POST.",
    410: "the receiver was removed for good.",
    413: "the receiver takes no body of this size.",
    415: "the receiver takes no application/json.",
    422: "the receiver understood the request and does not like its content.",
    429: "the receiver is asked too often.",
}
_REDIRECTS: Final = frozenset({301, 302, 303})


def verdict(sink: str, attempt: Attempt, told: Mapping[str, Any]) -> str:
    """One sentence or two. `told`: the story as it is answered."""
    if attempt.outcome is Outcome.DELIVERED:
        return _DELIVERED[sink].format(code=attempt.code)
    if USE_HTTPS in attempt.detail:
        words = f"{USE_HTTPS[0].upper()}{USE_HTTPS[1:]}."
        return f"{words} {_fate(attempt)}" if attempt.code.isdigit() else words
    if attempt.code == "tls":
        return _of_tls(attempt, told.get("tls") or {})
    if attempt.code in _CODES:
        host = str(told.get("server") or "").rpartition(":")[0] or "of the destination"
        return _CODES[attempt.code].format(host=host, detail=attempt.detail)
    if sink == "webhook" and attempt.code.isdigit():
        return f"{_of_status(int(attempt.code))} {_fate(attempt)}"
    return f"It was not delivered: {attempt.detail or attempt.code}."


def _of_status(status: int) -> str:
    words = _STATUSES.get(status)
    if words is None and status in _REDIRECTS:
        words = "the URL moved; set the new one, a POST does not follow this redirect."
    if words is None:
        words = "the receiver failed inside; its own log says why." if status >= 500 else ""
    said = f"The receiver answered {status}"
    return f"{said}: {words}" if words else f"{said}, which means that it did not take the event."


def _fate(attempt: Attempt) -> str:
    """Return the sentence on the fate of an event that ends like this test."""
    if attempt.outcome is Outcome.REJECTED:
        return (
            "An event that gets this answer becomes a dead letter at once: giveUpOn has "
            f"{attempt.code}."
        )
    return "An event that gets this answer is retried."


def _of_tls(attempt: Attempt, tls: Mapping[str, Any]) -> str:
    why = str(tls.get("refused", ""))
    known = tls.get("certificate") or {}
    if known:
        now = datetime.now(UTC)
        end = datetime.fromisoformat(known["notAfter"])
        begin = datetime.fromisoformat(known["notBefore"])
        if end < now:
            return f"The certificate expired on {end:%Y-%m-%d}."
        if begin > now:
            return f"The certificate is valid from {begin:%Y-%m-%d} on only."
        if "mismatch" in why.lower():
            names = ", ".join(known["names"]) or known["subject"]
            return f"The certificate is for another host ({names})."
        if "self-signed" in why or "self signed" in why:
            return "The certificate is self-signed: nobody vouches for it."
    if why:
        return f"The certificate is not accepted: {why}."
    reason = attempt.detail.removeprefix("no TLS connection").removeprefix(": ")
    return f"There is no TLS connection: {reason or 'the port speaks something else'}."
