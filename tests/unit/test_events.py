"""The catalogue."""

from __future__ import annotations

import pytest

from evoflask.events import NAMES, canonical


def test_the_catalogue_has_the_seed_s_32_names_and_one_more() -> None:
    assert len(NAMES) == len(set(NAMES)) == 33
    assert (NAMES[0], NAMES[31], NAMES[32]) == (
        "APPLICATION_STARTUP",
        "LOGOUT_INSTANCE",
        "SEND_MESSAGE_UPDATE",
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_event_is_known_in_its_three_spellings(name: str) -> None:
    lower = name.lower()

    for spelling in (name, lower.replace("_", "."), lower.replace("_", "-"), lower):
        assert canonical(spelling) == name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("group-participants.update", "GROUP_PARTICIPANTS_UPDATE"),
        ("typebot.change-status", "TYPEBOT_CHANGE_STATUS"),
        ("GROUP_UPDATE", "GROUPS_UPDATE"),
        ("group.update", "GROUPS_UPDATE"),
    ],
)
def test_mixed_spellings_and_the_alias_are_known(spelling: str, name: str) -> None:
    assert canonical(spelling) == name


@pytest.mark.parametrize(
    "word", ["", "NOPE", "CALL ", "CALL\n", "cal\u0131", "messages/upsert", "*"]
)
def test_what_is_no_event_is_none(word: str) -> None:
    assert canonical(word) is None
