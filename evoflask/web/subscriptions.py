"""Named subscriptions: any number of destinations an instance."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Blueprint

from evoflask import configuration, schemas
from evoflask.web import bodies, parts
from evoflask.web.auth import instance_key, who

bp = Blueprint("subscriptions", __name__, url_prefix="/subscription")


@bp.get("/<instance>")
@instance_key
def index(instance: str) -> list[dict[str, Any]]:
    """All of them, in the order of their creation."""
    return [bodies.subscription_row(each) for each in configuration.get(instance).subscriptions]


@bp.post("/<instance>")
@instance_key
def add(instance: str) -> tuple[dict[str, Any], int]:
    """A new one; 409 where the name is taken."""
    new = bodies.json_body(schemas.new_subscription)
    added = parts().configuration.add(instance, new, by=who(instance))
    return bodies.subscription_row(added), 201


@bp.get("/<instance>/<name>")
@instance_key
def show(instance: str, name: str) -> dict[str, Any]:
    """One."""
    return bodies.subscription_row(configuration.get_subscription(instance, name))


@bp.put("/<instance>/<name>")
@instance_key
def change(instance: str, name: str) -> dict[str, Any]:
    """Change what the body names; the rest stays."""
    stored = configuration.get_subscription(instance, name)
    patch = bodies.json_body(partial(schemas.subscription_patch, name, stored.sink))
    changed = parts().configuration.change(instance, name, patch, by=who(instance))
    return bodies.subscription_row(changed)


@bp.delete("/<instance>/<name>")
@instance_key
def remove(instance: str, name: str) -> dict[str, int]:
    """Delete one with its backlog; how many deliveries that discarded."""
    return {"discarded": parts().configuration.remove(instance, name, by=who(instance))}
