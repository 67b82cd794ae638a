"""Operations: long actions by hand, how far they are, and ending one."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from evoflask import operations, schemas
from evoflask.models import Operation
from evoflask.schemas import answers
from evoflask.schemas.asked import OperationsQuery
from evoflask.web import bodies
from evoflask.web.auth import some_key, visible, who
from evoflask.web.described import described

bp = Blueprint("operations", __name__, url_prefix="/operation")

_ID = "<row:operation>"
_INSIDE = {"instances", "upto", "run", "found"}
"""Of what it was asked: row numbers, which nobody asked for."""


@bp.get("")
@some_key
@described(answers.Operations, query=OperationsQuery)
def index() -> dict[str, Any]:
    """`?instance=&state=&after=&limit=`: newest first, a token its own; `next` is the `after`
    of the next page, or null."""
    query = schemas.operations_query(request.args)
    limit = query.get("limit", 100)
    rows = operations.find(
        visible(query.get("instance")),
        state=query.get("state"),
        before=query.get("after"),
        limit=limit + 1,
    )
    page = rows[:limit]
    return {
        "operations": [row(each) for each in page],
        "next": str(page[-1].id) if len(rows) > limit else None,
    }


@bp.get(f"/{_ID}")
@some_key
@described(answers.Operation)
def show(operation: int) -> dict[str, Any]:
    """How far one is."""
    return row(operations.get(operation, visible(None)))


@bp.post(f"/{_ID}/cancel")
@some_key
@described(answers.Operation, errors=(409,))
def cancel(operation: int) -> dict[str, Any]:
    """End one within half a second; what is done stays done. 409 where it ended already."""
    instances = visible(None)
    home = operations.instance_of(operations.get(operation, instances))
    by = who(None if home is None else home.name)
    return row(operations.cancel(operation, by, instances))


def row(operation: Operation) -> dict[str, Any]:
    """One as its routes answer it."""
    home = operations.instance_of(operation)
    return {
        "id": operation.id,
        "kind": operation.kind,
        "instance": None if home is None else home.name,
        "wanted": {k: v for k, v in operation.wanted.items() if k not in _INSIDE},
        "onto": None if operation.onto is None else operation.onto["subscription"],
        "rate": operation.rate,
        "by": operation.by,
        "state": operation.state,
        "total": operation.total,
        "done": operation.done,
        "failed": operation.failed,
        "error": operation.error,
        "createdAt": bodies.iso(operation.created_at),
        "updatedAt": bodies.iso(operation.updated_at),
        "endedAt": None if operation.ended_at is None else bodies.iso(operation.ended_at),
    }
