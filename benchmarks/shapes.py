"""Make the `data` of every event of the catalogue, in the shape that Evolution API 2.3 sends.

All names and numbers are made up. `chat` is the jid of the conversation.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Final

Json = Any
Shape = Callable[[str, int], Json]
"""Makes the `data` of the n-th event about a conversation."""

INSTANCE: Final = "7d0c1f2e-5a3b-4c6d-8e9f-0a1b2c3d4e5f"
PICTURE: Final = "https://pps.example.com/v/t61.24694-24/"
AT: Final = 1_763_771_103


def key(chat: str, n: int) -> dict[str, Json]:
    """The key of a message."""
    return {"remoteJid": chat, "fromMe": False, "id": f"{n:032X}"}


def message(chat: str, n: int) -> dict[str, Json]:
    """A text message."""
    return {
        "key": key(chat, n),
        "pushName": "Somebody",
        "status": "DELIVERY_ACK",
        "message": {"conversation": "Hello"},
        "messageType": "conversation",
        "messageTimestamp": AT + n,
        "instanceId": INSTANCE,
        "source": "android",
    }


def message_with_alt(chat: str, n: int) -> dict[str, Json]:
    """A text message whose chat is addressed by a `@lid`."""
    made = message(f"{zlib.crc32(chat.encode())}@lid", n)
    made["key"] |= {"remoteJidAlt": chat, "addressingMode": "lid"}
    return made


def update(chat: str, n: int) -> dict[str, Json]:
    """A change of a message's status."""
    return {
        "keyId": f"{n:032X}",
        "remoteJid": chat,
        "fromMe": True,
        "participant": chat,
        "status": "READ",
        "instanceId": INSTANCE,
        "messageId": f"cmi{n:022x}",
    }


def _edited(chat: str, n: int) -> Json:
    return {
        "key": key(chat, n),
        "type": "MESSAGE_EDIT",
        "editedMessage": {"conversation": "Hello again"},
        "timestampMs": str((AT + n) * 1000),
    }


def contact(chat: str, n: int) -> dict[str, Json]:
    """A contact's row."""
    return {
        "remoteJid": chat,
        "pushName": "Somebody",
        "profilePicUrl": f"{PICTURE}{n}.jpg",
        "instanceId": INSTANCE,
    }


def chat_row(chat: str, n: int) -> dict[str, Json]:
    """A chat's row."""
    return {"remoteJid": chat, "instanceId": INSTANCE, "unreadMessages": n}


def presence(chat: str, n: int) -> dict[str, Json]:
    """A member of a chat is typing."""
    return {"id": chat, "presences": {chat: {"lastKnownPresence": "composing", "lastSeen": AT + n}}}


def _group(chat: str, n: int) -> Json:
    return {"id": chat, "subject": "A group", "size": 2, "creation": AT, "subjectTime": AT + n}


def _participants(chat: str, _: int) -> Json:
    who = ["15550100@s.whatsapp.net"]
    data = [{"jid": who[0], "phoneNumber": who[0], "name": "Somebody"}]
    return {"id": chat, "participants": who, "action": "add", "participantsData": data}


def _call(chat: str, n: int) -> Json:
    return {
        "chatId": chat,
        "from": chat,
        "id": f"{n:032X}",
        "date": "2026-11-24T09:30:00.000Z",
        "offline": False,
        "status": "offer",
        "isVideo": False,
        "isGroup": False,
    }


def _association(chat: str, n: int) -> Json:
    return {"instance": "demo", "type": "add", "chatId": chat, "labelId": str(n % 20)}


def _typebot(chat: str, _: int) -> Json:
    return {"remoteJid": chat, "status": "opened", "url": "https://bot.example.com", "typebot": "x"}


def _always(data: Json) -> Shape:
    return lambda _chat, _n: data


def _one(shape: Shape) -> Shape:
    return lambda chat, n: [shape(chat, n)]


def many(shape: Shape, count: int) -> Shape:
    """Make arrays about `count` conversations each."""
    return lambda chat, n: [shape(f"{k}{chat}", n + k) for k in range(count)]


OF: Final[dict[str, Shape]] = {
    "APPLICATION_STARTUP": _always({"version": "2.3.7"}),
    "INSTANCE_CREATE": _always({"instanceName": "demo", "instanceId": INSTANCE}),
    "INSTANCE_DELETE": _always({"instanceName": "demo", "instanceId": INSTANCE}),
    "QRCODE_UPDATED": _always(
        {"qrcode": {"instance": "demo", "pairingCode": None, "code": "2@x", "base64": "data:,"}}
    ),
    "CONNECTION_UPDATE": _always({"instance": "demo", "state": "connecting", "statusReason": 200}),
    "STATUS_INSTANCE": _always(
        {
            "instance": "demo",
            "status": "closed",
            "disconnectionAt": "2026-11-24T09:30:00.000Z",
            "disconnectionReasonCode": 401,
            "disconnectionObject": "{}",
        }
    ),
    "MESSAGES_SET": many(message, 50),
    "MESSAGES_UPSERT": message,
    "MESSAGES_EDITED": _edited,
    "MESSAGES_UPDATE": update,
    "MESSAGES_DELETE": key,
    "SEND_MESSAGE": message,
    "CONTACTS_SET": many(contact, 50),
    "CONTACTS_UPSERT": _one(contact),
    "CONTACTS_UPDATE": _one(contact),
    "PRESENCE_UPDATE": presence,
    "CHATS_SET": many(chat_row, 50),
    "CHATS_UPDATE": _one(chat_row),
    "CHATS_UPSERT": _one(chat_row),
    "CHATS_DELETE": lambda chat, _: [chat],
    "GROUPS_UPSERT": _one(_group),
    "GROUPS_UPDATE": _one(_group),
    "GROUP_PARTICIPANTS_UPDATE": _participants,
    "CALL": _call,
    "TYPEBOT_START": _typebot,
    "TYPEBOT_CHANGE_STATUS": _typebot,
    "LABELS_EDIT": _always(
        {"id": "1", "name": "New", "color": 1, "deleted": False, "instance": "demo"}
    ),
    "LABELS_ASSOCIATION": _association,
    "CREDS_UPDATE": _always({"registered": True}),
    "MESSAGING_HISTORY_SET": _always(
        {"messageCount": 1000, "chatCount": 10, "contactCount": 10, "progress": 100}
    ),
    "REMOVE_INSTANCE": _always(None),
    "LOGOUT_INSTANCE": _always(None),
    "SEND_MESSAGE_UPDATE": update,
}
"""The shape of each event of the catalogue."""
