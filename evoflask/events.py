"""The catalogue: every event name that an instance may emit, and its spellings."""

from __future__ import annotations

from collections.abc import Mapping
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

OF_THE_INSTANCE: Final[frozenset[str]] = frozenset(
    {
        "INSTANCE_CREATE",
        "INSTANCE_DELETE",
        "QRCODE_UPDATED",
        "CONNECTION_UPDATE",
        "STATUS_INSTANCE",
        "REMOVE_INSTANCE",
        "LOGOUT_INSTANCE",
    }
)
"""Events about the instance itself. They share one order key, so they keep their order."""

_MESSAGE: Final = ("key.remoteJid", "remoteJid")
_CHANGE: Final = ("remoteJid", "key.remoteJid")
_ROW: Final = ("remoteJid", "id")
_GROUP: Final = ("id", "remoteJid")
_CALL: Final = ("chatId", "from")
CONVERSATION: Final[Mapping[str, tuple[str, ...]]] = {
    "MESSAGES_SET": _MESSAGE,
    "MESSAGES_UPSERT": _MESSAGE,
    "MESSAGES_EDITED": _MESSAGE,
    "MESSAGES_UPDATE": _CHANGE,
    "MESSAGES_DELETE": _CHANGE,
    "SEND_MESSAGE": _MESSAGE,
    "SEND_MESSAGE_UPDATE": _CHANGE,
    "CONTACTS_SET": _ROW,
    "CONTACTS_UPSERT": _ROW,
    "CONTACTS_UPDATE": _ROW,
    "CHATS_SET": _ROW,
    "CHATS_UPDATE": _ROW,
    "CHATS_UPSERT": _ROW,
    "CHATS_DELETE": _ROW,
    "PRESENCE_UPDATE": _GROUP,
    "GROUPS_UPSERT": _GROUP,
    "GROUPS_UPDATE": _GROUP,
    "GROUP_PARTICIPANTS_UPDATE": _GROUP,
    "CALL": _CALL,
    "LABELS_ASSOCIATION": _CALL,
    "TYPEBOT_START": _ROW,
    "TYPEBOT_CHANGE_STATUS": _ROW,
}
"""Dotted paths to the conversation below an event's `data`, tried in turn. An event that is
neither here nor in `OF_THE_INSTANCE` has no conversation."""

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
    """Return the sentence that refuses an unknown event name, with the nearest name."""
    if not isinstance(name, str):
        return f'Must be the name of an event, such as "MESSAGES_UPSERT", not {shown(name)}.'
    end = suggestion(name, _BY_SPELLING)
    if end == ".":
        end = "; /openapi.json lists the events as EventName."
    return f'"{shown(name)}" is not an event{end}'
