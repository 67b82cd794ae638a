"""Every body that changes configuration: one marshmallow schema a sink, and what surrounds it.

Bodies arrive nested (`{"webhook": {"url": ...}}`), flat (`{"url": ...}`) or under the names
that clients of Evolution API use (`webhookUrl`, `webhook_by_events`); `_gather` makes one of
them all. A schema then checks the fields that were given, `merge` lays them over what is
stored and checks what must hold together. Nothing here asks the database.

Wrong words raise `BadInput` with a sentence a fault: "webhook.url: Not a valid URL.".
"""

from evoflask.schemas.asked import (
    OUTCOMES,
    attempts_query,
    audit_log_query,
    draw_key_body,
    instances_query,
    kind_query,
    lanes_query,
    letters_body,
    letters_query,
    operations_query,
    purge_body,
    replay_body,
    requeue_body,
    requeue_one_body,
    skip_body,
    trial,
    trial_query,
)
from evoflask.schemas.bodies import (
    INTEGRATIONS,
    Given,
    NewInstance,
    NewSubscription,
    create_body,
    event_body,
    new_subscription,
    set_body,
    subscription_patch,
    token_body,
)
from evoflask.schemas.sinks import (
    COMMON,
    FORMATS,
    GIVE_UP_ON,
    SCHEMAS,
    SINKS,
    Patch,
    defaults,
    guarantee,
    merge,
    setting_names,
)

__all__ = [
    "COMMON",
    "FORMATS",
    "GIVE_UP_ON",
    "INTEGRATIONS",
    "OUTCOMES",
    "SCHEMAS",
    "SINKS",
    "Given",
    "NewInstance",
    "NewSubscription",
    "Patch",
    "attempts_query",
    "audit_log_query",
    "create_body",
    "defaults",
    "draw_key_body",
    "event_body",
    "guarantee",
    "instances_query",
    "kind_query",
    "lanes_query",
    "letters_body",
    "letters_query",
    "merge",
    "new_subscription",
    "operations_query",
    "purge_body",
    "replay_body",
    "requeue_body",
    "requeue_one_body",
    "set_body",
    "setting_names",
    "skip_body",
    "subscription_patch",
    "token_body",
    "trial",
    "trial_query",
]
