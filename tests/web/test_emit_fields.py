"""Fields of an emit that are not its own: a gateway's pass, a slip is refused, others warn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from evoflask import envelope
from evoflask.spelling import is_slip
from tests.web.conftest import GLOBAL, Request

pytestmark = pytest.mark.databases

EMIT = "/event/emit/a"
GOOD = {"event": "CALL", "data": {"n": 1}}
WEBHOOK_OF_A_GATEWAY = GOOD | {
    "instance": "a",
    "destination": "https://example.com/hook",
    "date_time": "2026-11-24T09:30:00.000Z",
    "sender": "15550100@s.whatsapp.net",
    "server_url": "https://gateway.example.com",
    "apikey": "a-key",
}
EMIT_DATA_OF_A_GATEWAY = GOOD | {
    "instanceName": "a",
    "origin": "ChannelStartupService",
    "serverUrl": "https://gateway.example.com",
    "dateTime": "2026-11-24T09:30:00.000Z",
    "sender": "15550100@s.whatsapp.net",
    "apiKey": "a-key",
    "local": True,
    "integration": ["webhook"],
    "extra": {"isLatest": True, "progress": 100},
}
SQS_OF_A_GATEWAY = GOOD | {"dataType": "json", "server": "evolution", "isLatest": True}
EVENT_OF_OURS = GOOD | {
    "instance": "a", "timestamp": "2026-11-24T09:30:00.000Z", "id": "one", "sender": None,
    "server": {"version": "1", "url": ""}, "retained": True, "subscriptions": [], "test": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "body", [GOOD, WEBHOOK_OF_A_GATEWAY, EMIT_DATA_OF_A_GATEWAY, SQS_OF_A_GATEWAY, EVENT_OF_OURS]
)
@pytest.mark.parametrize("half", ["", "\ud83d"])
def test_what_a_gateway_sends_beside_ours_is_taken_without_a_word(
    client: FlaskClient, instance: str, body: dict[str, Any], half: str
) -> None:
    answer = client.post(
        EMIT, data=json.dumps(body | {"data": half}), headers=GLOBAL, content_type=JSON
    )

    assert answer.status_code == 202, answer.json
    assert "warnings" not in answer.json  # type: ignore[operator]


JSON = "application/json"


@pytest.mark.parametrize("half", ["", "\ud83d"])
def test_a_field_that_resembles_none_of_ours_is_ignored_with_a_warning(
    client: FlaskClient, instance: str, half: str
) -> None:
    body = GOOD | {"tenant": 7, "eventType": "x", "data": half}

    answer = client.post(EMIT, data=json.dumps(body), headers=GLOBAL, content_type=JSON)

    assert answer.status_code == 202
    assert answer.json["warnings"] == [  # type: ignore[index]
        "tenant: Ignored: an emit has no such field.",
        "eventType: Ignored: an emit has no such field.",
    ]


@pytest.mark.parametrize(
    ("field", "beside"),
    [
        ("date", {}),
        ("events", {}),
        ("Event", {}),
        ("datas", {}),
        ("datetime", {"dateTime": "2026-11-24T09:30:00.000Z"}),
        ("senders", {"sender": "me"}),
        ("ID", {"id": "one"}),
        ("_id", {}),
        ("locale", {}),
        ("integrationId", {}),
        ("appKey", {}),
    ],
)
def test_a_field_that_resembles_one_of_ours_is_no_slip_beside_that_one_or_as_a_word_of_its_own(
    client: FlaskClient, instance: str, field: str, beside: dict[str, Any]
) -> None:
    for half in ("", "\ud83d"):
        body = GOOD | beside | {field: "pt-BR", "data": half, "id": f"one{len(half)}"}

        answer = client.post(EMIT, data=json.dumps(body), headers=GLOBAL, content_type=JSON)

        assert answer.status_code == 202, answer.json
        assert answer.json["warnings"] == [  # type: ignore[index]
            f"{field}: Ignored: an emit has no such field."
        ]


def test_many_unknown_fields_are_counted(call: Request, instance: str) -> None:
    six, seven = ({f"x{n}" * 60: n for n in range(most)} for most in (6, 7))

    one, two = (call("POST", EMIT, GOOD | fields).json["warnings"] for fields in (six, seven))  # type: ignore[index]

    assert len(one) == len(two) == envelope.MAX_STRANGE + 1
    assert all(len(each) < 200 for each in one)
    assert one[-1] == "1 more unknown field is ignored."
    assert two[-1] == "2 more unknown fields are ignored."


@pytest.mark.parametrize("lines", [False, True])
def test_in_an_array_a_slip_is_refused_alone(
    client: FlaskClient, instance: str, lines: bool
) -> None:
    batch = [GOOD | {"sendr": "me"}, WEBHOOK_OF_A_GATEWAY, GOOD | {"tenant": 7}]
    data = "\n".join(map(json.dumps, batch)) if lines else json.dumps(batch)
    how = "application/x-ndjson" if lines else JSON

    answer = client.post(EMIT, data=data, headers=GLOBAL, content_type=how)

    assert answer.status_code == 202
    assert answer.json is not None
    assert (answer.json["accepted"], answer.json["rejected"]) == (2, 1)
    first, second, third = answer.json["results"]
    assert first["message"] == ['sendr: Unknown field; did you mean "sender"?']
    assert "warnings" not in second
    assert third["warnings"] == ["tenant: Ignored: an emit has no such field."]


def test_no_field_of_a_gateway_is_taken_for_a_slip_and_every_slip_is_found() -> None:
    assert not set(envelope.GATEWAY) & set(envelope.FIELDS)
    for name in envelope.FIELDS:
        assert is_slip(name.upper(), name)
        assert is_slip(f"_{name}-", name)
        for at in range(len(name) if len(name) > 3 else 0):
            cut = name[:at] + name[at + 1 :]
            changed = name[:at] + "#" + name[at + 1 :]
            swapped = name[:at] + name[at : at + 2][::-1] + name[at + 2 :]
            assert all(is_slip(each, name) for each in (cut, changed, swapped, name + "s"))


@pytest.mark.parametrize(
    "name",
    ["eventType", "senderId", "tenant", "location", "version", "type", "i", "", "dates", "x" * 200],
)
def test_another_word_is_no_slip(name: str) -> None:
    assert not any(
        is_slip(name, each) for each in envelope.FIELDS if name != "dates" or each != "data"
    )
