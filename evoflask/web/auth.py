"""Check the key of a request: an operator's key or an instance's token.

The key is in the header `apikey`, or in `Authorization: Bearer`.

A caller without an operator's key gets the same 401 for a wrong key and for an instance that
does not exist, so names cannot be found by trying. A read-only key may read what a
global one may. It gets 403 for every request that changes something.
"""

from __future__ import annotations

import functools
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import Flask, Response, g, request

from evoflask import configuration
from evoflask.doorkeeper import client_address, too_many
from evoflask.errors import HOW_TO_SEND_A_KEY, Forbidden, TooManyFailures, Unauthorized
from evoflask.keyring import Key, digest, given_key
from evoflask.web import parts
from evoflask.web.described import Who, asking
from evoflask.web.errors import render

View = TypeVar("View", bound=Callable[..., Any])

_LOOKALIKES = ("X-Api-Key", "Api-Key", "Token")
"""Headers that other servers read a key from."""

_READS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key`: the operator's key that was given; `token_sha256` None: none was given at
    all, else the digest of whatever was."""

    key: Key | None
    token_sha256: str | None

    @property
    def global_(self) -> bool:
        """Whether it may see everything."""
        return self.key is not None

    def may(self, token_sha256: str) -> bool:
        """Whether the caller may do what concerns the instance with this token."""
        mine = self.token_sha256 or ""
        return self.global_ or hmac.compare_digest(mine, token_sha256)


def register(app: Flask) -> None:
    """Counts what came of keys."""
    app.after_request(_remember)


def holder() -> str:
    """Return the digest of this request's key or token, the holder of the bytes that it reads."""
    return caller_from_request().token_sha256 or ""


def caller_from_request() -> Caller:
    """Who asks, by the header. Raises `TooManyFailures`, and `Forbidden` for a read-only key that
    would change something."""
    caller: Caller | None = g.get("caller")
    if caller is None:
        caller = g.caller = _identify(key_of_request())
    if caller.key is not None and caller.key.read_only and request.method not in _READS:
        raise Forbidden(f'The key "{caller.key.name}" may look, and not change anything.')
    return caller


def key_of_request() -> str:
    """Return the key that the request's headers carry, or ""."""
    return given_key(request.headers.get("apikey"), request.headers.get("Authorization"))


def address() -> str:
    """Whom the request is from, for counting."""
    forwarded = ",".join(request.headers.getlist("X-Forwarded-For"))
    return client_address(request.remote_addr or "", forwarded, parts().settings.trusted_proxies)


def fail(sha256: str) -> None:
    """Count a wrong key. Raises `TooManyFailures` if its address is over the limit."""
    door = parts().door
    door.forget(sha256)
    if wait := door.failed(address(), time.monotonic()):
        raise too_many(wait)


def _identify(given: str) -> Caller:
    """Return the caller of a key. Raises `TooManyFailures` for a wrong key only."""
    if not given:
        return Caller(None, None)
    sha256 = digest(given)
    key = parts().keys.find(sha256)
    if key is None:
        parts().door.admit(address, sha256, time.monotonic())
    return Caller(key, sha256)


def _remember(response: Response) -> Response:
    """Count the key of a 401 as wrong, and remember a key that got an answer below 400."""
    caller: Caller | None = g.get("caller")
    if caller is None or caller.token_sha256 is None:
        return response
    if response.status_code == 401:
        try:
            fail(caller.token_sha256)
        except TooManyFailures as error:
            return render(error)
    elif response.status_code < 400:
        parts().door.succeeded(caller.token_sha256)
    return response


def who(instance: str | None = None) -> str:
    """The caller's name in the audit log: the name of its key. `instance`: whose token it is
    where it is not an operator's."""
    key = caller_from_request().key
    return f"instance:{instance}" if key is None else key.name


def unauthorized() -> Unauthorized:
    """Build the 401 of this request."""
    return missing_key() if caller_from_request().token_sha256 is None else Unauthorized()


def missing_key() -> Unauthorized:
    """Build the 401 of a request without a key. It names a place where a key seems to be."""
    headers = request.headers
    found = [f'The header "{name}"' for name in _LOOKALIKES if name in headers]
    if "Authorization" in headers:
        found.append('"Authorization" without "Bearer <key>"')
    if request.args.keys() & {"apikey", "token"}:
        found.append("A key in the query")
    ignored = "".join(f" {each} is not read here." for each in found[:1])
    return Unauthorized(f"Unauthorized: the request has no key.{ignored} {HOW_TO_SEND_A_KEY}")


def visible(name: str | None) -> tuple[int, ...] | None:
    """Rows of the instances that the caller may see, or of the one of that name. None: all.

    Raises `Unauthorized`, and `NotFound` for a name that only an operator's key may ask for.
    """
    caller = caller_from_request()
    if caller.token_sha256 is None:
        raise unauthorized()
    if caller.global_:
        return None if name is None else (configuration.get(name).instance.id,)
    mine = configuration.list_instances(token_sha256=caller.token_sha256)
    ids = tuple(each.instance.id for each in mine if name in (None, each.instance.name))
    if not ids:
        raise unauthorized()
    return ids


def some_key(view: View) -> View:
    """A view for any key; what it may see, `visible` says."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        visible(None)
        return view(*args, **kwargs)

    return asking(guarded, Who.ANY)  # type: ignore[return-value]  # the same, by wraps


def global_key(view: View) -> View:
    """A view for the operator's keys alone."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not caller_from_request().global_:
            raise unauthorized()
        return view(*args, **kwargs)

    return asking(guarded, Who.OPERATOR)  # type: ignore[return-value]  # the same, by wraps


def instance_key(view: View) -> View:
    """A view for an operator's key or the token of its `<instance>`, which exists. What the
    query or the body says about an instance counts for nothing."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        caller = caller_from_request()
        if caller.token_sha256 is None:
            raise unauthorized()
        if caller.global_:
            configuration.get(kwargs["instance"])
            return view(*args, **kwargs)
        state = configuration.find(kwargs["instance"])
        if state is None or not caller.may(state.instance.token_sha256):
            raise unauthorized()
        return view(*args, **kwargs)

    return asking(guarded, Who.INSTANCE)  # type: ignore[return-value]  # the same, by wraps
