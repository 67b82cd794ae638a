"""Who may do what: header `apikey`, the global key or an instance's token.

A caller without the global key gets the same 401 for a wrong key and for an instance that
does not exist, so nobody learns names by asking.
"""

from __future__ import annotations

import functools
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flask import request

from evoflask import configuration
from evoflask.configuration import sha256
from evoflask.errors import Unauthorized
from evoflask.web import parts

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `token_sha256` None: no key was given."""

    global_: bool
    token_sha256: str | None

    def may(self, token_sha256: str) -> bool:
        """Whether the caller may do what concerns the instance with this token."""
        mine = self.token_sha256 or ""
        return self.global_ or hmac.compare_digest(mine, token_sha256)


def caller_from_request() -> Caller:
    """Reads the header; never raises. Digests are compared, in constant time."""
    given = request.headers.get("apikey", "")
    if not given:
        return Caller(global_=False, token_sha256=None)
    digest = sha256(given)
    expected = parts().settings.api_key
    return Caller(
        global_=bool(expected) and hmac.compare_digest(digest, sha256(expected)),
        token_sha256=digest,
    )


def who(instance: str | None = None) -> str:
    """The caller's name in the audit log: the name of its key. `instance`: whose token it is
    where it is not the global key."""
    return "global" if caller_from_request().global_ else f"instance:{instance}"


def unauthorized() -> Unauthorized:
    """The one 401."""
    return Unauthorized("Unauthorized")


def visible(name: str | None) -> tuple[int, ...] | None:
    """Rows of the instances that the caller may see, or of the one of that name. None: all.

    Raises `Unauthorized`, and `NotFound` for a name that only the global key may ask for.
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
    """A view for the global key or any instance's token; what it may see, `visible` says."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        visible(None)
        return view(*args, **kwargs)

    return guarded  # type: ignore[return-value]  # the same signature, by wraps


def global_key(view: View) -> View:
    """A view for the global key alone."""

    @functools.wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not caller_from_request().global_:
            raise unauthorized()
        return view(*args, **kwargs)

    return guarded  # type: ignore[return-value]  # the same signature, by wraps


def instance_key(view: View) -> View:
    """A view for the global key or the token of its `<instance>`, which exists. What the
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

    return guarded  # type: ignore[return-value]  # the same signature, by wraps
