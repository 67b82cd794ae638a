"""One line a record, to stderr, without secrets.

    at=2026-01-31T12:00:00.123Z level=info logger=evoflask.web pid=7 msg="listening" port=8080

Modules say `log = logging.getLogger(__name__)`; what is worth a field of its own goes in
`extra`. Payloads are never logged. The last door, `redact`, goes over the finished line:
whatever a foreign library put into an exception, keys and passwords do not get out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Sequence

from evoflask.errors import EvoflaskError, Misconfigured

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_HIDDEN: Sequence[tuple[re.Pattern[str], str]] = (
    # user and password of a URL; the greedy first part takes a password with an @ in it too
    (re.compile(r"([a-z][a-z0-9+.\-]*://)[^\s/?#\"']*@", re.I), r"\1***@"),
    (
        re.compile(
            r"((?:api[-_]?key|authorization|password|secret|token)"
            r"[\\\"']*\s*[:=]\s*[\\\"']*)(?:(?:bearer|basic)\s+)?[^\s,;&}\])\\\"']+",
            re.I,
        ),
        r"\1***",
    ),
    (re.compile(r"whsec_[A-Za-z0-9+/=_\-]+"), "whsec_***"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without credentials: those of URLs, of `apikey` and its like, and `secrets`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    for pattern, instead in _HIDDEN:
        text = pattern.sub(instead, text)
    return text


class Lines(logging.Formatter):
    """Writes a record as one line of `name=value`."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # Short ones would eat the line: a key of one letter is a test's.
        self._secrets = sorted((each for each in secrets if len(each) >= 4), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: dict[str, object] = {
            "at": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "msg": record.getMessage(),
        }
        # Only our own: RQ hands a job's arguments over as extras.
        if record.name.startswith("evoflask"):
            fields |= {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.exc_info:
            fields["exc"] = self.formatException(record.exc_info)
        line = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        return redact(line, self._secrets)


def _utc(at: float) -> str:
    ms = int(at * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ms // 1000))}.{ms % 1000:03d}Z"


def _value(value: object) -> str:
    """Bare where that cannot be misread, else as a JSON string: a line stays one line."""
    text = value if isinstance(value, str) else str(value)
    return text if re.fullmatch(r"[\w.:/+@\-]+", text) else json.dumps(text)


def configure(level: str, secrets: Iterable[str] = ()) -> None:
    """Makes stderr the one place where this process logs. May be called again.

    `level`: a word of `LOG_LEVEL`; `secrets`: `Settings.secrets()`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("evoflask").setLevel(level.upper())
    # RQ sets INFO on import and tells of every bell.
    for name in ("rq.worker", "rq.job"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def refuse(error: Misconfigured) -> int:
    """Says why a process does not start, a sentence a line, and returns the exit status."""
    sys.stderr.write("".join(f"evoflask: {each}\n" for each in error.messages))
    return 1


class Repeats:
    """Tells of a failure that comes back every second once a minute, and again when it changes.

    `expected`: errors that need no traceback, beside our own and the system's.
    """

    def __init__(
        self,
        logger: logging.Logger,
        every: float = 60.0,
        expected: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._logger = logger
        self._every = every
        self._expected: tuple[type[BaseException], ...] = (EvoflaskError, OSError, *expected)
        self._last: tuple[str, float] | None = None

    def tell(self, message: str, error: BaseException) -> None:
        """Logs it, with a traceback where the error is not an expected one."""
        text, now = f"{message}: {type(error).__name__}: {error}", time.monotonic()
        if self._last and self._last[0] == text and now - self._last[1] < self._every:
            return
        self._last = (text, now)
        expected = isinstance(error, self._expected)
        self._logger.warning(text, exc_info=None if expected else error)

    def over(self, message: str) -> None:
        """Says that it works again, if it was said that it does not."""
        if self._last:
            self._logger.info(message)
        self._last = None
