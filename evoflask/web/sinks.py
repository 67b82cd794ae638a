"""One sink's configuration, for EVERY sink, and several at once: Evolution API's set and find.

They manage the subscription whose name is the sink's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify

from evoflask import configuration, schemas
from evoflask.schemas import answers
from evoflask.web import bodies, parts
from evoflask.web.auth import instance_key, who
from evoflask.web.described import OrNull, PerSink, described
from evoflask.web.openapi.bodies import SET, SET_EXAMPLE, SET_SEVERAL

bp = Blueprint("sinks", __name__)

_SINK = f"<any({', '.join(schemas.SINKS)}):sink>"


@bp.post(f"/{_SINK}/set/<instance>")
@instance_key
@described(PerSink(answers.SET_ROWS), 201, body=PerSink(SET), example=SET_EXAMPLE)
def set_sink(sink: str, instance: str) -> tuple[Response, int]:
    """Set the fields that the body names. The answer is the whole row in effect."""
    given = bodies.json_body(partial(schemas.set_body, sink))
    state = parts().configuration.set_sinks(instance, given.patches, by=who(instance))
    row = bodies.evolution_row(state.instance, state.sink(sink))
    return jsonify(bodies.with_warnings(row or {}, given.warnings)), 201


@bp.get(f"/{_SINK}/find/<instance>")
@instance_key
@described(OrNull(PerSink(answers.ROWS)))
def find_sink(sink: str, instance: str) -> Response:
    """The row, or null."""
    state = configuration.get(instance)
    return jsonify(bodies.evolution_row(state.instance, state.sink(sink)))


@bp.post("/event/set/<instance>")
@instance_key
@described(answers.SetRows, 201, body=SET_SEVERAL, example=SET_EXAMPLE["webhook"])
def set_event(instance: str) -> tuple[dict[str, Any], int]:
    """Set several sinks, all of them or none."""
    given = bodies.json_body(schemas.event_body)
    state = parts().configuration.set_sinks(instance, given.patches, by=who(instance))
    return bodies.with_warnings(bodies.evolution_rows(state), given.warnings), 201


@bp.get("/event/find/<instance>")
@instance_key
@described(answers.Rows)
def find_event(instance: str) -> dict[str, Any]:
    """All six, row or null."""
    return bodies.evolution_rows(configuration.get(instance))
