"""What a server's certificate says, also one that was not accepted.

Python's `ssl` reads a certificate only after it has verified it, and why it was not accepted
("certificate has expired") is half of what its owner must know. So the few fields that a
person looks at are picked out of its bytes (X.509, RFC 5280) here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_COMMON_NAME = bytes.fromhex("0603550403")
_ORGANIZATION = bytes.fromhex("060355040a")
_ALTERNATIVE = bytes.fromhex("551d11")
_SEQUENCE, _OID, _OCTETS, _UTC_TIME, _DNS, _IP = 0x30, 0x06, 0x04, 0x17, 0x82, 0x87
MAX_NAMES = 20
"""Names of one certificate that are told."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """`names`: the hosts that it is for."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    names: tuple[str, ...]


def read(der: bytes) -> Certificate:
    """A certificate by its bytes. Raises `ValueError` for what is none. Pure."""
    try:
        return _read(der)
    except (IndexError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _read(der: bytes) -> Certificate:
    _, certificate = next(_parts(der))
    _, signed = next(_parts(certificate))
    fields = list(_parts(signed))
    if fields[0][0] == 0xA0:  # the version, which a certificate of version 1 has not
        fields = fields[1:]
    _, _, (_, issuer), (_, validity), (_, subject) = fields[:5]
    begin, end = (_date(tag, value) for tag, value in list(_parts(validity))[:2])
    extensions = next((value for tag, value in fields[5:] if tag == 0xA3), b"")
    return Certificate(_name(subject), _name(issuer), begin, end, tuple(_names(extensions)))


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of what stands one after the other."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            n = length & 0x7F
            length = int.from_bytes(der[at : at + n], "big")
            at += n
        if at + length > len(der):
            raise IndexError(at)
        yield tag, der[at : at + length]
        at += length


def _name(der: bytes) -> str:
    """The common name, else the organization, else nothing."""
    found = {oid: _value(der, oid) for oid in (_COMMON_NAME, _ORGANIZATION)}
    return found[_COMMON_NAME] or found[_ORGANIZATION]


def _value(der: bytes, oid: bytes) -> str:
    for _, group in _parts(der):
        for _, pair in _parts(group):
            if pair.startswith(oid):
                return list(_parts(pair))[1][1].decode("utf-8", "replace")[:200]
    return ""


def _date(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # two digits of a year: of this century below 50
        text = ("20" if text[:2] < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _names(extensions: bytes) -> Iterator[str]:
    for _, listed in _parts(extensions):
        for _, extension in _parts(listed):
            parts = list(_parts(extension))
            if parts[0] == (_OID, _ALTERNATIVE):
                yield from _alternative(parts[-1][1])


def _alternative(der: bytes) -> Iterator[str]:
    _, names = next(_parts(der))
    for tag, value in list(_parts(names))[:MAX_NAMES]:
        if tag == _DNS:
            yield value.decode("ascii", "replace")
        elif tag == _IP:
            family = socket.AF_INET if len(value) == 4 else socket.AF_INET6
            yield socket.inet_ntop(family, value)


async def fetch(address: str, port: int, host: str, *, seconds: float) -> Certificate | None:
    """The certificate that a server shows, believed or not; None: it shows none in time.

    Sends nothing but the greeting of TLS, to an address that the guard has let through.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(
                address, port, ssl=context, server_hostname=host
            )
            try:
                der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                return read(der) if der else None
            finally:
                writer.transport.abort()
    return None
