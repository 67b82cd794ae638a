"""TLS for sinks: contexts, resumed sessions, and the handshake that a test shows.

asyncio hands no session to OpenSSL. But a context may name the class of its TLS objects, and
asyncio makes the object within the task that connects. So `resuming` sets the session in that
task's context, and `Tls` reads it there.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from asyncio import sslproto
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import aiohttp

from evoflask.net import certificate, story
from evoflask.net.certificate import Certificate
from evoflask.net.story import Story

LOOK_SECONDS = 3.0
"""Time to fetch a refused certificate, to show it."""
BUFFER = 32 * 1024
"""Bytes of asyncio's buffer for each TLS connection. A TLS record has at most 16 kB. asyncio's own
buffers have 256 kB each, filled with zeros: 1 GB for 4,000 connections."""

_session: ContextVar[ssl.SSLSession | None] = ContextVar("tls_session", default=None)


class Tls(ssl.SSLObject):
    """A TLS connection that resumes a session, and reports its handshake to a story."""

    received: ssl.MemoryBIO
    """Bytes from the socket that OpenSSL has not read yet."""

    @classmethod
    def _create(
        cls,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Tls:
        session = _session.get()
        create = super()._create  # type: ignore[misc]  # typeshed leaves it out
        try:
            made = create(incoming, outgoing, server_side, server_hostname, session, context)
        except ValueError:  # a session of another context
            made = create(incoming, outgoing, server_side, server_hostname, None, context)
        assert isinstance(made, Tls)
        made.received = incoming
        return made

    def do_handshake(self) -> None:
        """Shake hands, and report it if a story listens."""
        told = story.current()
        if told is not None and "connect" not in told.timing:
            told.step("connect")
        super().do_handshake()
        if told is not None:
            der = self.getpeercert(binary_form=True)
            told.tls = _shown(self.version(), certificate.read(der) if der else None)


@contextlib.contextmanager
def resuming(session: ssl.SSLSession | None) -> Iterator[None]:
    """Resume this session in handshakes that begin within, in the same task."""
    token = _session.set(session)
    try:
        yield
    finally:
        _session.reset(token)


def prepared(context: ssl.SSLContext | None) -> ssl.SSLContext:
    """Return the context, or the one of the system's certificates, with `Tls` objects.

    From then on all TLS connections of this process get small buffers.
    """
    sslproto.SSLProtocol.max_size = min(sslproto.SSLProtocol.max_size, BUFFER)
    found = system() if context is None else context
    found.sslobject_class = Tls
    return found


@functools.cache
def system() -> ssl.SSLContext:
    """Return the context that aiohttp would make. The first call reads the system's certificates,
    which takes some milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


@contextlib.asynccontextmanager
async def looking(told: Story) -> AsyncIterator[None]:
    """Look at a certificate that is refused within, for the story. Errors pass."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        told.tls = await _refused(told, error)
        raise


async def _refused(told: Story, error: aiohttp.ClientConnectorCertificateError) -> dict[str, Any]:
    found = await certificate.fetch(
        told.address, error.port or 443, error.host, seconds=LOOK_SECONDS
    )
    why = getattr(error.certificate_error, "verify_message", "") or "it was not accepted"
    return {**_shown(None, found), "refused": why}


def _shown(version: str | None, found: Certificate | None) -> dict[str, Any]:
    if found is None:
        return {"version": version, "certificate": None}
    return {
        "version": version,
        "certificate": {
            "subject": found.subject,
            "issuer": found.issuer,
            "names": list(found.names),
            "notBefore": found.not_before.isoformat(),
            "notAfter": found.not_after.isoformat(),
        },
    }
