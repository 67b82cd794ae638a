"""A scheme that does not fit the port: plain text to TLS, or TLS to plain text. Pure."""

from __future__ import annotations

import re
from typing import Final

USE_HTTPS: Final = "the server speaks TLS at this port: use https:// instead of http://"
PLAIN: Final = "the port may not speak TLS: try http:// instead of https://"

_OF_A_PLAIN_PORT: Final = frozenset(
    {
        "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST",
        "UNEXPECTED_EOF_WHILE_READING", "UNEXPECTED_MESSAGE", "UNKNOWN_PROTOCOL",
    }
)  # fmt: skip
"""OpenSSL's reasons where a server answers a handshake in plain text, or hangs up."""

# nginx and load balancers, Go, Apache, Tomcat and Jetty, in their words.
_WANTS_TLS: Final = re.compile(
    r"plain http request was sent to (?:an? )?https|http request to an https server"
    r"|speaking plain http to an ssl|host and port requires tls",
    re.IGNORECASE,
)


def is_plain_port(error: BaseException) -> bool:
    """Return True if a handshake failed as it does where a server does not speak TLS."""
    return (getattr(error, "reason", None) or "") in _OF_A_PLAIN_PORT


def wants_tls(scheme: str, answer: str) -> bool:
    """Return True if an HTTP answer says that plain HTTP came to a TLS port."""
    return scheme == "http" and _WANTS_TLS.search(answer) is not None


def no_tls(use: str, instead_of: str, setting: str) -> str:
    """Return the sentence for TLS to a port without it; `use`, `instead_of` are schemes."""
    return (
        f"the server does not speak TLS at this port: use {use}:// instead of {instead_of}:// in "
        f"{setting}"
    )
