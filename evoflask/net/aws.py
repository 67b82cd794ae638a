"""Which SQS queue a URL names, and whether a tenant may name it. Pure.

A tenant chooses the queue, we send the request: a URL that could name any host would be a
way into our network. So it has one of the forms that SQS gives its queues, whose hosts are
all AWS's own, or begins with exactly the origin that the operator chose (`SQS_ENDPOINT_URL`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

REGION: Final = re.compile(r"[a-z]{2,8}(-[a-z]{2,16}){1,3}-[0-9]{1,2}", re.ASCII)

_URL: Final = re.compile(r"(https?)://([^/?#@\\\s]+)/([!-~]+)", re.ASCII | re.IGNORECASE)
_NAME: Final = re.compile(r"(?=.{1,80}$)[A-Za-z0-9_\-]+(\.fifo)?", re.ASCII)
_ACCOUNT: Final = re.compile(r"[0-9]{12}", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_\-]{1,80}", re.ASCII)
_REGION_IN: Final = rf"(?P<region>{REGION.pattern})"
_HOSTS: Final = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"sqs(-fips)?\.{_REGION_IN}\.amazonaws\.(com|com\.cn|eu)",
        rf"sqs(-fips)?\.{_REGION_IN}\.api\.(aws|amazonwebservices\.com\.cn)",
        rf"{_REGION_IN}\.queue\.amazonaws\.(com|com\.cn)",
    )
)
_OLDEST_HOST: Final = "queue.amazonaws.com"
_OLDEST_REGION: Final = "us-east-1"
_PORTS: Final = {"http": 80, "https": 443}


class NotAQueue(ValueError):
    """A URL that no queue has, or none that may be named here. Its text is a sentence."""


@dataclass(frozen=True, slots=True)
class Queue:
    """What a queue's URL says."""

    url: str
    origin: str
    """Of the URL, canonical: `https://sqs.eu-west-1.amazonaws.com`."""
    region: str
    """"": the URL names none."""
    name: str

    @property
    def fifo(self) -> bool:
        """Whether it keeps the order of message groups, and drops repeats."""
        return self.name.endswith(".fifo")


def read_queue(url: str, endpoint: str = "") -> Queue:
    """The queue of a URL. `endpoint`: `SQS_ENDPOINT_URL`, whose origin is allowed too.

    Raises `NotAQueue`.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise NotAQueue("Not a valid URL.")
    scheme, netloc, path = found.groups()
    origin = _origin(f"{scheme}://{netloc}")
    segments = path.split("/")
    if not _NAME.fullmatch(segments[-1]):
        raise NotAQueue(
            "Must end with the name of a queue: 1 to 80 letters, digits, _ or -, "
            "with .fifo at its end where it is one."
        )
    if endpoint and origin == _origin(endpoint):
        if not all(map(_SEGMENT.fullmatch, segments[:-1])):
            raise NotAQueue("Not the URL of a queue.")
        return Queue(url, origin, _region(urlsplit(origin).hostname or "") or "", segments[-1])
    region = _region(origin.removeprefix("https://"))
    if region is None or len(segments) != 2 or not _ACCOUNT.fullmatch(segments[0]):
        raise NotAQueue(
            "Not the URL of an SQS queue, such as "
            "https://sqs.eu-west-1.amazonaws.com/123456789012/name."
        )
    return Queue(url, origin, region, segments[1])


def queue_fault(url: str, endpoint: str = "") -> str | None:
    """Why this URL must not be used, as a sentence; None: it may."""
    try:
        read_queue(url, endpoint)
    except NotAQueue as error:
        return str(error)
    return None


def _region(host: str) -> str | None:
    """The region in one of AWS's host names; None: it is none of them."""
    if host == _OLDEST_HOST:
        return _OLDEST_REGION
    found = next(filter(None, (each.fullmatch(host) for each in _HOSTS)), None)
    return found["region"] if found else None


def _origin(url: str) -> str:
    """Scheme, host and port in one spelling; "" where they cannot be read."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError:
        return ""
    if not host or scheme not in _PORTS or port == 0:
        return ""
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (f":{port}" if port and port != _PORTS[scheme] else "")
