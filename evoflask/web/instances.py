"""Instances, as Evolution API has them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from evoflask import configuration, schemas
from evoflask.configuration import Created, State
from evoflask.errors import NotFound, Undecipherable
from evoflask.models import Instance
from evoflask.schemas import answers
from evoflask.schemas.asked import InstancesQuery
from evoflask.schemas.bodies import TokenBody
from evoflask.web import bodies, parts
from evoflask.web.auth import caller_from_request, global_key, instance_key, unauthorized, who
from evoflask.web.described import Many, Who, described
from evoflask.web.openapi.bodies import CREATE, CREATE_EXAMPLE

bp = Blueprint("instances", __name__, url_prefix="/instance")

_GATEWAY_SETTINGS = {
    "rejectCall": False,
    "msgCall": "",
    "groupsIgnore": False,
    "alwaysOnline": False,
    "readMessages": False,
    "readStatus": False,
    "syncFullHistory": False,
    "wavoipToken": "",
}
"""What a gateway would do: clients read the keys, evoflask has no such settings."""


@bp.post("/create")
@global_key
@described(answers.Created, 201, body=CREATE, example=CREATE_EXAMPLE)
def create() -> tuple[dict[str, Any], int]:
    """A new instance and its token, which is shown here and never again."""
    new = bodies.json_body(schemas.create_body)
    created = parts().configuration.create(new, by=who())
    return bodies.with_warnings(_created(created), new.warnings), 201


@bp.get("/fetchInstances")
@described(Many(answers.Instance), key=Who.ANY, query=InstancesQuery, errors=(404,))
def fetch_instances() -> list[dict[str, Any]]:
    """All instances for the global key, its own for a token; by name, id or number."""
    caller = caller_from_request()
    token = None if caller.global_ else caller.token_sha256
    if not caller.global_ and (
        token is None or not configuration.list_instances(token_sha256=token)
    ):
        raise unauthorized()
    query = schemas.instances_query(request.args)
    name, outbox = query.get("instanceName") or None, query.get("instanceId") or None
    found = configuration.list_instances(
        token_sha256=token, name=name, outbox=outbox, number=query.get("number") or None
    )
    if (name or outbox) and not found:
        raise NotFound(f'Instance "{name or outbox}" not found')
    return [_fetched(state) for state in found]


@bp.post("/rotateToken/<instance>")
@instance_key
@described(answers.Rotated, body=TokenBody, body_required=False, example={}, errors=(409,))
def rotate_token(instance: str) -> dict[str, Any]:
    """Another token, the body's or one that is drawn; shown here and never again. The old one
    ends at once, with the sockets that it opened."""
    wanted = bodies.optional_json_body(schemas.token_body)
    token = parts().configuration.rotate_token(instance, wanted, by=who(instance))
    return {"instance": {"instanceName": instance}, "hash": token}


@bp.get("/connectionState/<instance>")
@instance_key
@described(answers.ConnectionState)
def connection_state(instance: str) -> dict[str, Any]:
    """Always open: what connects to WhatsApp is the gateway, not we."""
    return {"instance": {"instanceName": instance, "state": "open"}}


@bp.delete("/logout/<instance>")
@instance_key
@described(answers.Success)
def logout(instance: str) -> dict[str, Any]:
    """Changes nothing here: the session is the gateway's."""
    return _success("Instance logged out")


@bp.delete("/delete/<instance>")
@instance_key
@described(answers.Success)
def delete(instance: str) -> dict[str, Any]:
    """The instance with all that belongs to it; its name is free at once."""
    parts().configuration.delete(instance, by=who(instance))
    return _success("Instance deleted")


def _token(row: Instance) -> str | None:
    """As Evolution API shows it, where it may be: usually only its digest is stored."""
    key = caller_from_request().key
    if not parts().settings.expose_tokens or row.token is None or (key and key.read_only):
        return None
    try:
        token: str = row.token.open()
    except Undecipherable:  # the others are worth showing all the same
        return None
    return token


def _success(message: str) -> dict[str, Any]:
    return {"status": "SUCCESS", "error": False, "response": {"message": message}}


def _created(created: Created) -> dict[str, Any]:
    state = created.state
    rows = bodies.evolution_rows(state)
    webhook = rows.pop("webhook")
    return {
        "instance": {
            "instanceName": state.instance.name,
            "instanceId": state.instance.outbox,
            "integration": state.instance.integration,
            "webhookWaBusiness": None,
            "accessTokenWaBusiness": "",
            "status": "open",
        },
        "hash": created.token,
        "webhook": {
            "webhookUrl": webhook["url"],
            "webhookHeaders": webhook["headers"],
            "webhookByEvents": webhook["byEvents"],
            "webhookBase64": webhook["base64"],
        }
        if webhook
        else {},
        **{sink: {"enabled": row["enabled"]} if row else {} for sink, row in rows.items()},
        "settings": _GATEWAY_SETTINGS,
    }


def _fetched(state: State) -> dict[str, Any]:
    row = state.instance
    sinks = {name.capitalize(): each for name, each in bodies.evolution_rows(state).items()}
    return {
        "id": row.outbox,
        "name": row.name,
        "connectionStatus": "open",
        "ownerJid": None,
        "profileName": None,
        "profilePicUrl": None,
        "integration": row.integration,
        "number": row.number,
        "businessId": None,
        "token": _token(row),
        "clientName": "evoflask",
        "disconnectionReasonCode": None,
        "disconnectionObject": None,
        "disconnectionAt": None,
        "createdAt": bodies.iso(row.created_at),
        "updatedAt": bodies.iso(row.updated_at),
        "Chatwoot": None,
        "Proxy": None,
        "Rabbitmq": sinks.pop("Rabbitmq"),
        "Nats": sinks.pop("Nats"),
        "Sqs": sinks.pop("Sqs"),
        "Websocket": sinks.pop("Websocket"),
        "Setting": None,
        "_count": {"Message": 0, "Contact": 0, "Chat": 0},
        **sinks,
    }
