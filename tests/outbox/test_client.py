"""Errors of a verb that ran, though Redis refused what followed it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from evoflask.errors import OutboxDown
from evoflask.outbox import Copies, Limits, Outbox, keys, verbs
from tests.outbox import test_verbs
from tests.outbox.test_verbs import entry

outbox = test_verbs.outbox
"""The fixture."""


@pytest.fixture
def limited(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """Return a client of a user that may not run SET or PING outside of scripts."""
    rule = ("limited", "on", "nopass", "~*", "&*", "+@all")
    redis_client.execute_command("ACL", "SETUSER", *rule)
    pool = redis_client.connection_pool
    known = {**pool.connection_kwargs, "username": "limited", "password": "any"}
    client = redis.Redis(
        connection_pool=redis.ConnectionPool(connection_class=pool.connection_class, **known)
    )
    yield client
    client.close()
    redis_client.acl_deluser("limited")


@pytest.mark.parametrize("command", ["set", "ping"])
def test_a_verb_that_ran_is_to_be_repeated_with_its_id(
    outbox: Outbox, redis_client: redis.Redis, limited: redis.Redis, command: str
) -> None:
    call = verbs.append(0, "i1", 1, "e1", [entry(1)], Limits())
    outbox.run(verbs.awake(0, ["webhook"], 60))  # the script rings no bell, which takes SET
    redis_client.execute_command("ACL", "SETUSER", "limited", f"-{command}")
    redis_client.config_set("appendonly", "yes")
    box = Outbox(limited)
    how = {
        "set": lambda: box.run_copied(call, Copies(1, 0.1)),
        "ping": lambda: box.run_written(call),
    }

    with pytest.raises(OutboxDown, match="repeat with the same id"):
        how[command]()

    assert redis_client.xlen(keys.outbox(0, "i1")) == 1
