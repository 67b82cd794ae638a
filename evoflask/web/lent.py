"""Answer with a large event, whose bytes are borrowed until the client has them."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response

from evoflask.reading import Loan
from evoflask.web import parts
from evoflask.web.auth import holder


def lent_json(make: Callable[[Loan], bytes]) -> Response:
    """Return JSON as an answer. `make` gets a loan of the request's key, and returns the JSON.

    The loan ends when the answer is sent, or when `make` raises.
    """
    loan = parts().manager.reads.loan(holder())
    try:
        response = Response(make(loan), mimetype="application/json")
    except BaseException:
        loan.give()
        raise
    response.call_on_close(loan.give)
    return response
