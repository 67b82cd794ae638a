"""One line a record, to stderr, without secrets.

    at=2026-01-31T12:00:00.123Z level=info logger=evoflask.web pid=7 msg="listening" port=8080

With `LOG_FORMAT=json` it is an object with the same names. Modules say
`log = logging.getLogger(__name__)`; what is worth a field of its own goes in `extra`; ids are
always named `event_id`, `event`, `instance`, `subscription`, `sink`, `attempt`. Payloads are
never logged, nor what a destination answered, which may repeat one. The last door, `redact`, goes
over the finished line (of JSON, over each value): whatever a foreign library put into an
exception, keys and passwords do not get out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from evoflask.errors import EvoflaskError, Misconfigured

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_SECRET_NAME = re.compile(r"api[-_]?key|authorization|password|secret|token", re.I)
"""A field with such a word in its name is not shown, whatever it is."""

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
        fields = self._fields(record)
        line = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        return redact(line, self._secrets)

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
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
        return fields


class JsonLines(Lines):
    """Writes a record as one JSON object on a line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        shown = {name: self._shown(name, v) for name, v in self._fields(record).items()}
        return json.dumps(shown)

    def _shown(self, name: str, value: object) -> object:
        if _SECRET_NAME.search(name):
            return "***"
        if value is None or isinstance(value, bool | int | float):
            return value
        # Before JSON escapes it: a secret with a quote in it would else pass.
        return redact(str(value), self._secrets)


FORMATS: dict[str, type[Lines]] = {"text": Lines, "json": JsonLines}
"""What `LOG_FORMAT` may say."""


def _utc(at: float) -> str:
    ms = int(at * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ms // 1000))}.{ms % 1000:03d}Z"


def _value(value: object) -> str:
    """Bare where that cannot be misread, else as a JSON string: a line stays one line."""
    text = value if isinstance(value, str) else str(value)
    return text if re.fullmatch(r"[\w.:/+@\-]+", text) else json.dumps(text)


def configure(level: str, secrets: Iterable[str] = (), form: str = "text") -> None:
    """Makes stderr the one place where this process logs. May be called again.

    `level`: a word of `LOG_LEVEL`; `secrets`: `Settings.secrets()`; `form`: `LOG_FORMAT`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[form](secrets))
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


LINES = 20
"""Lines that one `Repeats` writes within its `every` seconds, at most."""


class Repeats:
    """Logs a recurring failure once, again when it changes, and once a minute.

    `repeated` on a line counts the lines that were left out before it. At most `LINES` lines are
    written within `every` seconds. Safe between threads.

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
        self._lock = threading.Lock()
        self._logged: dict[str, float] = {}
        """When each failure was last written; empty where all works."""
        self._written: deque[float] = deque(maxlen=LINES)
        """Dates of the last lines."""
        self._left_out = 0

    @property
    def failing(self) -> bool:
        """Return True if a failure was logged and its end was not."""
        return bool(self._logged)

    def tell(self, message: str, error: BaseException) -> None:
        """Log a failure, with a traceback if the error is not an expected one.

        Skip an error that is `logged` where it is raised.
        """
        if isinstance(error, EvoflaskError) and error.logged:
            return
        expected = isinstance(error, self._expected)
        text = f"{message}: {type(error).__name__}: {error}"
        self.write(text, None if expected else error)

    def write(self, text: str, error: BaseException | None = None) -> None:
        """Log a failure in these words, with the traceback of `error`."""
        with self._lock:
            at = self._logged.get(text)
            fresh = at is not None and time.monotonic() - at < self._every
            if fresh or not self._may_write():
                self._left_out += 1
                return
            self._logged.pop(text, None)
            self._logged[text] = self._written[-1]
            if len(self._logged) > LINES:
                del self._logged[next(iter(self._logged))]
            extra = self._repeated()
        self._logger.warning(text, exc_info=error, extra=extra)

    def over(self, message: str) -> None:
        """Log that it works again, if a failure was logged.

        Call it at each success: if the bound allows no line now, a later call writes it.
        """
        if not self._logged:
            return
        with self._lock:
            if not self._logged or not self._may_write():
                return
            self._logged.clear()
            extra = self._repeated()
        self._logger.info(message, extra=extra)

    def _may_write(self) -> bool:
        """Return True and count a line, if the bound allows one more."""
        now = time.monotonic()
        if len(self._written) == LINES and now - self._written[0] < self._every:
            return False
        self._written.append(now)
        return True

    def _repeated(self) -> dict[str, object]:
        left_out, self._left_out = self._left_out, 0
        return {"repeated": left_out} if left_out else {}


class Bounded:
    """Lines of which there may be thousands a second: `most` a second are written, the others
    counted, and their count is told with the next one."""

    def __init__(self, logger: logging.Logger, level: int, message: str, most: int = 20) -> None:
        self._logger = logger
        self._level = level
        self._message = message
        self._most = most
        self._began = -1.0
        self._written = 0
        self._left_out = 0

    def tell(self, facts: Callable[[], dict[str, object]]) -> None:
        """Writes one. `facts`: its fields, asked for only where they are written. From any
        thread; two at once may write one more."""
        if not self._logger.isEnabledFor(self._level):
            return
        now = time.monotonic()
        if now - self._began >= 1:
            self._began, self._written = now, 0
        if self._written >= self._most:
            self._left_out += 1
            return
        self._written += 1
        left_out, self._left_out = self._left_out, 0
        more: dict[str, object] = {"left_out": left_out} if left_out else {}
        self._logger.log(self._level, self._message, extra=facts() | more)
