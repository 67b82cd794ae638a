"""The catalogue: every event name that an instance may emit, and its spellings."""

from __future__ import annotations

from typing import Final

from evoflask.spelling import shown, suggestion

NAMES: Final[tuple[str, ...]] = (
    "APPLICATION_STARTUP",
    "INSTANCE_CREATE",
    "INSTANCE_DELETE",
    "QRCODE_UPDATED",
    "CONNECTION_UPDATE",
    "STATUS_INSTANCE",
    "MESSAGES_SET",
    "MESSAGES_UPSERT",
    "MESSAGES_EDITED",
    "MESSAGES_UPDATE",
    "MESSAGES_DELETE",
    "SEND_MESSAGE",
    "CONTACTS_SET",
    "CONTACTS_UPSERT",
    "CONTACTS_UPDATE",
    "PRESENCE_UPDATE",
    "CHATS_SET",
    "CHATS_UPDATE",
    "CHATS_UPSERT",
    "CHATS_DELETE",
    "GROUPS_UPSERT",
    "GROUPS_UPDATE",
    "GROUP_PARTICIPANTS_UPDATE",
    "CALL",
    "TYPEBOT_START",
    "TYPEBOT_CHANGE_STATUS",
    "LABELS_EDIT",
    "LABELS_ASSOCIATION",
    "CREDS_UPDATE",
    "MESSAGING_HISTORY_SET",
    "REMOVE_INSTANCE",
    "LOGOUT_INSTANCE",
    "SEND_MESSAGE_UPDATE",
)
"""32 names in the order of Evolution API's own rules, then the one that only its server has."""

ALIASES: Final[dict[str, str]] = {"GROUP_UPDATE": "GROUPS_UPDATE"}
"""Evolution API configures `GROUP_UPDATE` and sends `groups.update`: for us they are one."""

_BY_SPELLING: Final[dict[str, str]] = {name: name for name in NAMES} | ALIASES
_TO_UNDERSCORE: Final = str.maketrans(".-", "__")


def canonical(name: str) -> str | None:
    """The catalogue's spelling of an event, or None for what is no event.

    `MESSAGES_UPSERT`, `messages.upsert`, `messages-upsert` and the mixed
    `group-participants.update` are taken, in any case.
    """
    if not name.isascii():  # "ı".upper() is "I": not a letter of any event's name
        return None
    return _BY_SPELLING.get(name.translate(_TO_UNDERSCORE).upper())


def unknown(name: object) -> str:
    """Return the sentence that refuses what is no event, with the nearest name."""
    if not isinstance(name, str):
        return f'Must be the name of an event, such as "MESSAGES_UPSERT", not {shown(name)}.'
    end = suggestion(name, _BY_SPELLING)
    if end == ".":
        end = "; /openapi.json lists the events as EventName."
    return f'"{shown(name)}" is not an event{end}'
