"""SQS: messages in calls of up to ten.

Delivered means: SQS named the message among those that it keeps, with the MD5 of the body
that was sent. It stores a message on several servers before it says so. On a FIFO queue a
repeat within five minutes is proven in the same way and dropped by the queue.

Nothing is sent twice by itself: boto3's own retries are off, and a lost connection is
AMBIGUOUS. A call that SQS refuses as a whole for what may be one message's fault has kept
nothing of it; its messages are sent once more, each alone, so that the fault is one's own.

boto3 blocks, so calls run in threads. One that hangs holds its thread until its timeout:
a queue has at most `A_QUEUE` of them, an endpoint half of all, and what is older than a
second no longer counts among the few that run side by side when all is well. So a queue
that is silent makes nobody else wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
import time
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import botocore.exceptions as aws_errors
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from evoflask.net import story
from evoflask.net.story import Story
from evoflask.settings import Settings
from evoflask.sinks._schemes import PLAIN
from evoflask.sinks._sqs_clients import Call, Clients, quiet
from evoflask.sinks._sqs_messages import A_CALL, Destination, Message, pieces, prepare
from evoflask.sinks._threads import Threads
from evoflask.sinks.base import Attempt, Delivery, Outcome, Sink, Target

MAX_DETAIL = 300
"""Characters of an attempt's detail."""
THROTTLED_SECONDS = 5.0
"""The wait that a throttled call asks for where SQS names none."""
CACHED = 20_000
"""Subscriptions kept prepared."""
A_QUEUE = 8
"""Calls under way to one queue."""
OLD = 16
"""How many times as many threads there are for all calls as for young ones."""


class SqsSink(Sink):
    """Sends events to queues, ten a call."""

    batch_size = A_CALL

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._destinations: dict[str, Destination] = {}
        most = settings.sqs_threads * OLD
        self._an_endpoint = most // 2
        self._threads = Threads("sqs", young=settings.sqs_threads, most=most)
        self._clients = Clients(connections=self._an_endpoint)
        quiet()

    def batch_key(self, target: Target) -> Hashable:
        return self._destination(target).key

    async def deliver(self, batch: Sequence[Delivery]) -> list[Attempt]:
        found: dict[int, Attempt] = {}
        queues: dict[Hashable, list[Message]] = {}
        for at, delivery in enumerate(batch):
            destination = self._destination(delivery.target)
            message = destination.message(at, delivery)
            if isinstance(message, Attempt):
                found[at] = message
            else:
                queues.setdefault(destination.key, []).append(message)
        calls = [self._send(piece) for messages in queues.values() for piece in pieces(messages)]
        if len(calls) == 1:  # without a task of its own
            found |= await calls[0]
        else:
            for attempts in await asyncio.gather(*calls):
                found |= attempts
        return [
            found[at].told(self._destination(each.target).host, found[at].answer)
            for at, each in enumerate(batch)
        ]

    async def close(self) -> None:
        await self._threads.close()
        self._clients.close()

    async def _send(self, messages: Sequence[Message]) -> dict[int, Attempt]:
        """One call, and where it fails for what may be one message's fault, one for each."""
        end = time.monotonic() + messages[0].destination.timeout
        answer = await self._call(messages, end)
        if isinstance(answer, dict):
            return answer
        if answer.code not in _OF_ONE or len(messages) == 1:
            return {each.at: answer for each in messages}
        alone = await asyncio.gather(*(self._call([each], end) for each in messages))
        found: dict[int, Attempt] = {}
        for message, own in zip(messages, alone, strict=True):
            found[message.at] = own[message.at] if isinstance(own, dict) else own
        return found

    async def _call(self, messages: Sequence[Message], end: float) -> dict[int, Attempt] | Attempt:
        """What became of each; an attempt alone: of the call as a whole."""
        to = messages[0].destination
        told = story.current()
        if told is not None:
            _tell(told, messages[0])
        call = Call(to.url, [each.entry for each in messages], end)
        work = partial(call.run, self._clients, to.client, to.keys)
        gates = (to.key, A_QUEUE), (to.client.endpoint, self._an_endpoint)
        try:
            async with asyncio.timeout(end - time.monotonic()):
                response = await self._threads.run(work, *gates)
            if told is not None:
                told.step("answer")
                status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                told.answers(status=status, headers={})
            return {each.at: _ending(each, response) for each in messages}
        except Exception as error:
            return translate(error, sent=not call.claim(), hidden=to.hidden)

    def _destination(self, target: Target) -> Destination:
        found = self._destinations.get(target.sid)
        if found is None or (found.version, found.timeout) != (target.version, target.timeout):
            found = prepare(target, self._settings)
            self._destinations.pop(target.sid, None)
            if len(self._destinations) >= CACHED:
                del self._destinations[next(iter(self._destinations))]
            self._destinations[target.sid] = found
        return found


def _tell(told: Story, message: Message) -> None:
    told.hidden = message.destination.hidden
    told.server = urlsplit(message.destination.client.endpoint).netloc
    facts = {name: value for name, value in message.entry.items() if name != "MessageBody"}
    told.sends(queueUrl=message.destination.url, **facts, body=message.body)


# What an ending means


_THROTTLED = frozenset(
    {
        *("RequestThrottled", "Throttling", "ThrottlingException", "ThrottledException"),
        *("KmsThrottled", "OverLimit", "RequestLimitExceeded", "BandwidthLimitExceeded"),
        *("TooManyRequestsException", "SlowDown", "ServiceUnavailable"),
        "ServiceUnavailableException",
    }
)
_SENTENCES: Mapping[str, str] = {
    **dict.fromkeys(("QueueDoesNotExist", "NonExistentQueue"), "the queue does not exist"),
    **dict.fromkeys(
        ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"),
        "AWS does not know the access key",
    ),
    **dict.fromkeys(
        ("SignatureDoesNotMatch", "IncompleteSignature", "InvalidSignatureException"),
        "the secret access key is wrong, or the clock is",
    ),
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"),
        "the credentials have expired",
    ),
    **dict.fromkeys(
        ("AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"),
        "the credentials may not send to this queue",
    ),
    **dict.fromkeys(
        ("AuthFailure", "InvalidSecurity", "MissingAuthenticationToken", "OptInRequired"),
        "AWS does not accept the credentials",
    ),
}
_QUIET = frozenset({"SignatureDoesNotMatch", "IncompleteSignature", "InvalidSignatureException"})
"""Whose message is a page of what was signed."""
_OF_ONE = frozenset(
    {
        *("InvalidParameterValue", "InvalidParameterValueException", "InvalidParameter"),
        *("InvalidParameterCombination", "MissingParameter", "MissingRequiredParameterException"),
        *("InvalidMessageContents", "InvalidAttributeValue", "InvalidBatchEntryId"),
        *("BatchRequestTooLong", "ValidationError", "ValidationException"),
    }
)
"""Of the whole call, for what may be the fault of one message."""


def classify(
    code: str,
    message: str = "",
    *,
    status: int = 400,
    sender_fault: bool = False,
    retry_after: float | None = None,
    hidden: Sequence[str] = (),
) -> Attempt:
    """Return the attempt that a refusal of SQS ends. Pure.

    It concerns a call or, with `sender_fault`, one message in it. Wrong credentials and a missing
    queue are REFUSED, not rejected: an operator mends them. Until then the lane pauses, and its
    events do not become dead letters.
    """
    word = re.split(r"[.#]", code)[-1] or str(status)
    sentence = _SENTENCES.get(word, f"SQS refused it: {word}")
    told = "" if word in _QUIET else _line(message, hidden)
    detail = _short(f"{sentence}: {told}" if told else sentence)
    if word in _THROTTLED or status in (429, 503):
        return Attempt(Outcome.REFUSED, word, detail, retry_after or THROTTLED_SECONDS)
    if word in _OF_ONE:
        return Attempt(Outcome.REJECTED, word, detail)
    known = word in _SENTENCES or code.startswith(("Kms", "KMS."))
    outcome = Outcome.REJECTED if sender_fault and not known else Outcome.REFUSED
    return Attempt(outcome, word, detail)


def _ending(message: Message, response: Mapping[str, Any]) -> Attempt:
    """One message's own part of an answer."""
    name = message.entry["Id"]
    for kept in response.get("Successful") or ():
        if kept.get("Id") == name:
            md5 = hashlib.md5(message.body, usedforsecurity=False).hexdigest()
            if kept.get("MD5OfMessageBody") == md5:
                number = kept.get("MessageId")
                return Attempt(Outcome.DELIVERED, answer=f"MessageId {number}" if number else "")
            return Attempt(Outcome.AMBIGUOUS, "md5", "SQS has kept another body than was sent")
    for failed in response.get("Failed") or ():
        if failed.get("Id") == name:
            return classify(
                str(failed.get("Code") or ""),
                str(failed.get("Message") or ""),
                status=400 if failed.get("SenderFault") else 500,
                sender_fault=bool(failed.get("SenderFault")),
                hidden=message.destination.hidden,
            )
    return Attempt(Outcome.AMBIGUOUS, "no-word", "the answer says nothing of this message")


class _Ending(NamedTuple):
    kinds: tuple[type[BaseException], ...]
    outcome: Outcome
    code: str
    sentence: str


_E = aws_errors
# The first that fits. A test walks botocore's exceptions and finds each of them here.
_ENDINGS = (
    _Ending((_E.ReadTimeoutError, TimeoutError), Outcome.AMBIGUOUS, "timeout", "no answer in time"),
    _Ending(
        (_E.ConnectionClosedError,), Outcome.AMBIGUOUS, "reset", "the connection broke: no answer"
    ),
    _Ending(
        (_E.ResponseStreamingError, _E.IncompleteReadError, ResponseParserError),
        Outcome.AMBIGUOUS,
        "bad-answer",
        "the answer cannot be read",
    ),
    _Ending(
        (_E.ChecksumError, _E.FlexibleChecksumError, _E.EventStreamError),
        Outcome.AMBIGUOUS,
        "bad-answer",
        "the answer cannot be read",
    ),
    _Ending((_E.HTTPClientError,), Outcome.AMBIGUOUS, "reset", "the connection broke: no answer"),
    _Ending(
        (_E.ConnectTimeoutError,), Outcome.UNREACHABLE, "connect-timeout", "no connection in time"
    ),
    _Ending((_E.SSLError,), Outcome.UNREACHABLE, "tls", "no TLS connection"),
    _Ending((_E.ProxyConnectionError,), Outcome.UNREACHABLE, "proxy", "no way through the proxy"),
    _Ending((_E.EndpointConnectionError,), Outcome.UNREACHABLE, "connect", "no connection"),
    _Ending((_E.ConnectionError,), Outcome.UNREACHABLE, "connect", "no connection"),
    _Ending(
        (
            *(_E.NoCredentialsError, _E.PartialCredentialsError, _E.CredentialRetrievalError),
            *(_E.NoAuthTokenError, _E.TokenRetrievalError, _E.UnknownTokenProviderError),
            *(_E.MetadataRetrievalError, _E.UnknownCredentialError, _E.ProfileNotFound),
            *(_E.SSOError, _E.LoginError, _E.RefreshWithMFAUnsupportedError),
            *(_E.InvalidIMDSEndpointError, _E.InvalidIMDSEndpointModeError),
            *(_E.InvalidSTSRegionalEndpointsConfigError, _E.ConfigNotFound, _E.ConfigParseError),
            *(_E.InvalidConfigError, _E.MissingDependencyException),
        ),
        Outcome.UNREACHABLE,
        "credentials",
        "this process has no credentials for AWS",
    ),
    _Ending(
        (
            *(_E.BaseEndpointResolverError, _E.UnknownRegionError, _E.ServiceNotInRegionError),
            *(_E.EndpointProviderError, _E.InvalidEndpointConfigurationError),
            *(_E.ValidationError, _E.ParamValidationError, _E.MissingParametersError),
            *(_E.InvalidProxiesConfigError, _E.InvalidRetryConfigurationError),
            *(_E.InvalidDefaultsMode, _E.InvalidHostLabelError, _E.InvalidDNSNameError),
            *(
                _E.DataNotFoundError,
                _E.ApiVersionNotFoundError,
                _E.UnsupportedServiceProtocolsError,
            ),
            *(_E.UnknownSignatureVersionError, _E.UnsupportedSignatureVersionError),
            *(_E.InvalidChecksumConfigError, _E.UnknownServiceStyle, _E.UnknownClientMethodError),
            *(_E.MD5UnavailableError, ValueError),
        ),
        Outcome.UNREACHABLE,
        "settings",
        "the settings of this process or subscription cannot be used",
    ),
    _Ending((Exception,), Outcome.AMBIGUOUS, "internal", "the call failed in this process"),
)


def translate(error: BaseException, *, sent: bool = True, hidden: Sequence[str] = ()) -> Attempt:
    """The one door for what boto3, sockets and threads raise. Never shows the error's own text,
    but what SQS answered. `sent`: whether the call may have left this process. Pure."""
    if isinstance(error, aws_errors.ClientError) and isinstance(
        getattr(error, "response", None), Mapping
    ):
        return _refusal(error.response, hidden)
    ending = next(one for one in _ENDINGS if isinstance(error, one.kinds))
    outcome, code, sentence = ending.outcome, ending.code, ending.sentence
    if outcome is Outcome.AMBIGUOUS and not sent:
        outcome = Outcome.UNREACHABLE
        if code == "timeout":
            code, sentence = "busy", "all threads for this queue were waiting for answers"
    inner = getattr(error, "kwargs", {}).get("error")
    if code == "connect":
        code, sentence = _connect_code(inner)
    elif code == "tls":
        outcome, sentence = _tls(inner)
    elif code == "internal":
        sentence += f": {type(error).__name__}"
    return Attempt(outcome, code, _short(sentence))


def _refusal(response: Mapping[str, Any], hidden: Sequence[str]) -> Attempt:
    error, meta = response.get("Error") or {}, response.get("ResponseMetadata") or {}
    asked = str((meta.get("HTTPHeaders") or {}).get("retry-after", ""))
    return classify(
        str(error.get("QueryErrorCode") or error.get("Code") or ""),
        str(error.get("Message") or ""),
        status=int(meta.get("HTTPStatusCode") or 400),
        retry_after=min(float(asked), 86_400.0) if re.fullmatch(r"\d{1,9}", asked) else None,
        hidden=hidden,
    )


def _connect_code(inner: object) -> tuple[str, str]:
    if isinstance(inner, urllib3.exceptions.NameResolutionError):
        return "dns", "the name cannot be resolved"
    cause = getattr(inner, "__cause__", None) or getattr(inner, "__context__", None)
    if isinstance(cause, ConnectionRefusedError):
        return "refused", "connection refused"
    return "connect", "no connection"


def _tls(inner: object) -> tuple[Outcome, str]:
    """A handshake that failed has sent nothing; what breaks later may have."""
    text = str(inner)
    cause = inner.args[0] if isinstance(inner, Exception) and inner.args else inner
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Outcome.UNREACHABLE, f"no TLS connection: {cause.verify_message}"
    if "WRONG_VERSION_NUMBER" in text:
        return Outcome.UNREACHABLE, f"no TLS connection: {PLAIN} in SQS_ENDPOINT_URL"
    if "HANDSHAKE" in text.upper() or inner is None:
        return Outcome.UNREACHABLE, "no TLS connection"
    return Outcome.AMBIGUOUS, "the TLS connection broke"


def _line(text: str, hidden: Sequence[str]) -> str:
    """A foreign sentence as one printable line, without what is `hidden`."""
    for secret in filter(None, hidden):
        text = text.replace(secret, "…")
    text = "".join(each if each.isprintable() else " " for each in text[:2_000])
    return " ".join(text.split())


def _short(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1] + "…"
