"""The streams that NATS messages need: their names, what `createStream` makes, and the sentences
that tell what to do where there is none. Pure.
"""

from __future__ import annotations

import hashlib
import re

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from evoflask.sinks.base import Attempt, Outcome

MAX_DETAIL = 300
"""Characters of an attempt's detail."""

# A stream made by `createStream`. Its oldest messages make room: a consumer that is gone must
# not stop the others. The window covers the first four waits of the default retry schedule;
# a server keeps about 100 bytes for each id in it.
STREAM_AGE = 3 * 86_400.0
STREAM_BYTES = 1024**3
STREAM_WINDOW = 900.0


def wildcards(template: str) -> str:
    """The subjects that a template may become: words with a placeholder are `*`."""
    return ".".join("*" if "{" in word else word for word in template.split("."))


def stream_name(template: str) -> str:
    """A name that follows from the subject alone, so that all processes find the same. Where
    it is not the subject with `_` for dots, a hash keeps two subjects apart."""
    name = re.sub(r"[^A-Za-z0-9-]+", "_", template).strip("_")
    if re.fullmatch(r"[A-Za-z0-9.-]{1,100}", template):
        return name
    return f"{name[:80]}_{hashlib.sha256(template.encode()).hexdigest()[:8]}"


def stream_config(template: str) -> StreamConfig:
    """The stream that `createStream` makes."""
    return StreamConfig(
        name=stream_name(template),
        description="made by evoflask",
        subjects=[wildcards(template)],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=STREAM_AGE,
        max_bytes=STREAM_BYTES,
        max_msgs=-1,
        max_consumers=-1,
        num_replicas=1,
        duplicate_window=STREAM_WINDOW,
    )


def no_stream(subject: str, template: str) -> Attempt:
    """Nobody took it."""
    command = f"nats stream add {stream_name(template)} --subjects '{wildcards(template)}'"
    detail = f"no stream takes {subject}; create one ({command} --defaults) or set createStream"
    return Attempt(Outcome.REFUSED, "no-stream", short(detail))


def not_created(template: str, why: Attempt) -> Attempt:
    """The stream that `createStream` asks for could not be made."""
    wanted = f"the stream {stream_name(template)} for {wildcards(template)} cannot be created"
    hints = {
        "10065": "another stream takes a part of these subjects: create one by hand",
        "10058": "a stream of that name has other settings: add the subject to it",
    }
    reason = hints.get(why.code, why.detail)
    return Attempt(Outcome.REFUSED, why.code, short(f"{wanted}: {reason}"))


def short(text: str) -> str:
    """Cut to what a detail may have."""
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"
