"""Numbers of rows in paths."""

from __future__ import annotations

from typing import Final

from flask import Flask
from werkzeug.routing import IntegerConverter

MAX: Final = 10**15 - 1
"""Below 2**53, beyond which JavaScript's numbers have gaps."""


class RowId(IntegerConverter):
    """`<row:letter>`. werkzeug's own bound, `int(max=...)`, is looked at too late: what is beyond
    it is answered 405 where another method has the same path."""

    regex = "[0-9]{1,15}"


def register(app: Flask) -> None:
    """Before the routes that need it."""
    app.url_map.converters["row"] = RowId
