"""Bad input to the routes of configuration: a clear 4xx in the one shape, and nothing changed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.web.conftest import GLOBAL, Dump, Request

JSON = "application/json"
SET = "/webhook/set/a"
CREATE = "/instance/create"
SUB = "/subscription/a"
CRM = "/subscription/a/crm"
DEEP = 20_000
OWN = {"name": "new", "sink": "webhook", "enabled": True, "url": "https://example.com"}


@dataclass(frozen=True)
class Case:
    """A request, and words that its answer must have."""

    name: str
    path: str
    body: Any
    says: str
    status: int = 400
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = JSON


def webhook(name: str, settings: Any, says: str) -> Case:
    return Case(f"webhook {name}", SET, {"webhook": settings}, says)


def url(name: str, value: Any, says: str = "webhook.url: Not a valid URL.") -> Case:
    return webhook(f"url {name}", {"url": value}, says)


def headers(name: str, value: Any, says: str) -> Case:
    return webhook(f"headers {name}", {"headers": value}, says)


def create(name: str, body: Any, says: str, status: int = 400) -> Case:
    return Case(f"create {name}", CREATE, body, says, status)


def sub(name: str, change: Any, says: str) -> Case:
    return Case(f"subscription {name}", SUB, OWN | change, says)


def raw(name: str, body: bytes, says: str, **how: Any) -> Case:
    return Case(f"raw {name}", SET, body, says, **how)


CASES = [
    # the body as a whole
    raw("empty", b"", "The body is empty"),
    raw("gzip unsaid", gzip.compress(b"{}"), "Content-Encoding: gzip"),
    raw("truncated", b'{"webhook": {"enabled": tr', "The body is not JSON"),
    raw("an array", b"[]", "The body must be a JSON object."),
    raw("a string", b'"webhook"', "The body must be a JSON object."),
    raw("null", b"null", "The body must be a JSON object."),
    raw("NaN", b'{"webhook": {"timeout": NaN}}', "NaN is no JSON value"),
    raw("Infinity", b'{"webhook": {"timeout": -Infinity}}', "-Infinity is no JSON value"),
    raw("two documents", b'{"webhook": {}} {}', "The body is not JSON"),
    raw("a comma too many", b'{"webhook": {},}', "The body is not JSON"),
    raw("single quotes", b"{'webhook': {}}", "The body is not JSON"),
    raw("control character in a string", b'{"webhook": {"url": "a\nb"}}', "The body is not JSON"),
    raw("brackets", b"[" * DEEP, "nested deeper than 64 levels"),
    raw("closed brackets", b"[" * DEEP + b"]" * DEEP, "nested deeper than 64 levels"),
    raw("braces", b'{"":' * 12_000 + b"1" + b"}" * 12_000, "nested deeper than 64 levels"),
    raw("65 levels", b'{"webhook":' + b"[" * 64 + b"]" * 64 + b"}", "nested deeper than 64"),
    raw("a key twice", b'{"webhook": {"enabled": true}, "webhook": {}}', 'the key "webhook" twice'),
    raw("an inner key twice", b'{"webhook": {"url": "https://a.b", "url": "https://c.d"}}',
        'the key "url" twice'),
    raw("a header twice", b'{"webhook": {"headers": {"X-A": "1", "X-A": "2"}}}',
        'the key "X-A" twice'),
    raw("Latin-1", '{"webhook": {"url": "https://é.com"}}'.encode("latin-1"), "not UTF-8"),
    raw("UTF-16", '{"webhook": {}}'.encode("utf-16"), "not UTF-8"),
    raw("two byte order marks", b'\xef\xbb\xbf' * 2 + b'{"webhook": {}}', "The body is not JSON"),
    raw("overlong UTF-8", b'{"webhook": {"url": "\xc0\xaf"}}', "not UTF-8"),
    raw("half a surrogate pair", b'{"webhook": {"url": "https://\\ud800.com"}}',
        "webhook.url: Has half of a surrogate pair"),
    raw("half a pair as a key", b'{"webhook": {"headers": {"\\ud800": ""}}}',
        "half of a surrogate pair"),
    raw("30,000 digits", b'{"webhook": {"concurrency": ' + b"9" * 30_000 + b"}}", "1000 digits"),
    raw("too large", b'{"webhook": {"url": "' + b"a" * 70_000 + b'"}}', "larger than 65536 bytes",
        status=413),
    raw("a form", b"url=https://example.com", "Content-Type must be application/json,",
        status=415, content_type="application/x-www-form-urlencoded"),
    raw("text", b"{}", "Content-Type must be application/json,", status=415,
        content_type="text/plain"),
    raw("no type", b"{}", "Content-Type must be application/json,", status=415, content_type=""),
    raw("another charset", b"{}", "must be UTF-8", status=415,
        content_type="application/json; charset=utf-16"),
    raw("not compressed", b"{}", "is not a gzip stream", headers={"Content-Encoding": "gzip"}),
    raw("compressed otherwise", b"{}", "'br' is not supported", status=415,
        headers={"Content-Encoding": "br"}),
    raw("a bomb", gzip.compress(b" " * 9_000_000), "larger than 65536 bytes", status=413,
        headers={"Content-Encoding": "gzip"}),
    # around one sink
    Case("nothing of the sink", SET, {"rabbitmq": {"enabled": True}}, "webhook: Missing data"),
    Case("an empty object", SET, {}, "webhook: Missing data"),
    webhook("null", None, "webhook: Not an object."),
    webhook("a string", "https://example.com", "webhook: Not an object."),
    webhook("a list", [{}], "webhook: Not an object."),
    webhook("enabled as text", {"enabled": "true"}, "webhook.enabled: Not a valid boolean."),
    webhook("enabled as 1", {"enabled": 1}, "webhook.enabled: Not a valid boolean."),
    webhook("enabled null", {"enabled": None}, "webhook.enabled: Field may not be null."),
    webhook("byEvents as text", {"byEvents": "yes"}, "webhook.byEvents: Not a valid boolean."),
    webhook("base64 as a list", {"base64": []}, "webhook.base64: Not a valid boolean."),
    webhook("two spellings", {"base64": True, "webhookBase64": 1}, "Given twice, with different"),
    # events
    webhook("events text", {"events": "CALL"}, "webhook.events: Not a valid list."),
    webhook("unknown event", {"events": ["CALL", "NOPE"]}, 'events[1]: "NOPE" is not an event;'),
    webhook("event a number", {"events": [1]}, "webhook.events[0]: Must be the name"),
    webhook("event with a dotless i", {"events": ["s\u0131"]}, "is not an event"),
    webhook("event with CRLF", {"events": ["CALL\r\n"]}, '"CALL??" is not an event; did you'),
    webhook("too many events", {"events": ["CALL"] * 1001}, "Longer than maximum length 1000."),
    # url
    url("a number", 1, "webhook.url: Not a valid string."),
    url("ftp", "ftp://example.com"),
    url("file", "file:///etc/passwd"),
    url("javascript", "javascript:alert(1)"),
    url("relative", "/hook"),
    url("a word", "vazio"),
    url("no host", "https://"),
    url("a port alone", "https://:8080/"),
    url("a bad port", "https://example.com:99999/"),
    url("port 0", "https://example.com:0/"),
    url("a space", "https://exa mple.com/"),
    url("CRLF", "https://example.com/\r\nHost: evil"),
    url("NUL", "https://example.com/\x00"),
    url("a tab", "\thttps://example.com/"),
    url("a backslash", "https://example.com\\@evil.com/"),
    url("an open bracket", "https://[::1/"),
    url("an empty label", "https://a..b/"),
    url("a long label", f"https://{'a' * 64}.com/"),
    url("a percent in the host", "https://a%2fb.com/"),
    url("credentials", "https://user:pass@example.com/", "user name or a password"),
    url("a user", "https://user@example.com/", "user name or a password"),
    url("an empty user", "https://@example.com/", "user name or a password"),
    url("a fragment", "https://example.com/#x", "Must not have a fragment."),
    url("too long", "https://example.com/" + "a" * 2048, "Longer than maximum length 2048."),
    url("private", "http://192.168.0.1/", "Must not be reached"),
    url("an address in disguise", "http://0x7f.1/", "Must not be reached"),
    # headers
    headers("a list", [["X-A", "b"]], "webhook.headers: Not a valid mapping type."),
    headers("CRLF in a value", {"X-A": "b\r\nHost: evil"}, "X-A: Must not contain control"),
    headers("LF in a value", {"X-A": "b\n"}, "X-A: Must not contain control"),
    headers("NUL in a value", {"X-A": "\x00"}, "X-A: Must not contain control"),
    headers("CRLF in a name", {"X-A\r\nHost": "b"}, "Not a valid header name."),
    headers("a colon in a name", {"X:A": "b"}, "Not a valid header name."),
    headers("an empty name", {"": "b"}, "Not a valid header name."),
    headers("a name of another alphabet", {"X-é": "b"}, "Not a valid header name."),
    headers("a number", {"X-A": 1}, "X-A: Not a valid string."),
    headers("null", {"X-A": None}, "X-A: Not a valid string."),
    headers("a value beyond Latin-1", {"X-A": "日本"}, "Must be Latin-1"),
    headers("Host", {"host": "evil"}, "This header is the server's own."),
    headers("Content-Length", {"Content-Length": "1"}, "This header is the server's own."),
    headers("Transfer-Encoding", {"Transfer-Encoding": "chunked"}, "the server's own."),
    headers("Connection", {"Connection": "close"}, "This header is the server's own."),
    headers("a signature", {"Webhook-Signature": "v1,x"}, "This header is the server's own."),
    headers("twice", {"X-A": "1", "x-a": "2"}, "x-a: Given twice."),
    headers("two JWT keys", {"jwt_key": "1", "JWT_KEY": "2"}, "JWT_KEY: Given twice."),
    headers("an empty JWT key", {"Jwt_Key": ""}, "Jwt_Key: Must not be empty"),
    headers("a line end in a JWT key", {"jwt_key": "k\n"}, "jwt_key: Must not contain control"),
    headers("a long JWT key", {"jwt_key": "k" * 5000}, "jwt_key: Longer than maximum length 4096."),
    headers("too many", {f"X-{n}": "" for n in range(51)}, "Longer than maximum length 50."),
    headers("a long value", {"X-A": "a" * 5000}, "Longer than maximum length 4096."),
    # common fields
    webhook("format", {"format": "xml"}, "webhook.format: Must be one of: standard."),
    webhook("concurrency 0", {"concurrency": 0}, "webhook.concurrency: Must be greater"),
    webhook("concurrency 65", {"concurrency": 65}, "webhook.concurrency: Must be greater"),
    webhook("concurrency 1e400", {"concurrency": 10**400}, "webhook.concurrency: Must be greater"),
    webhook("concurrency 1.5", {"concurrency": 1.5}, "webhook.concurrency: Not a valid integer."),
    webhook("concurrency true", {"concurrency": True}, "concurrency: Not a valid integer."),
    webhook("orderBy", {"orderBy": "key.remoteJid"}, "webhook.orderBy: Must be a dotted path"),
    webhook("orderBy with a gap", {"orderBy": "data..key"}, "webhook.orderBy: Must be a dotted"),
    webhook("orderBy with NUL", {"orderBy": "data.\x00"}, "webhook.orderBy: Must be a dotted"),
    webhook("orderBy with a quote", {"orderBy": 'data.a"b'}, "webhook.orderBy: Must be a dotted"),
    webhook("orderBy with a backslash", {"orderBy": "data.a\\b"}, "webhook.orderBy: Must be a dot"),
    webhook("orderBy a number", {"orderBy": 7}, "webhook.orderBy: Must be a dotted path into"),
    webhook("orderBy true", {"orderBy": True}, "webhook.orderBy: Must be a dotted path into"),
    webhook("orderBy an object", {"orderBy": {}}, "webhook.orderBy: Must be a dotted path into"),
    webhook("orderBy empty", {"orderBy": []}, "webhook.orderBy: A list must have 1 to 10 paths."),
    webhook("orderBy of 11", {"orderBy": ["data.a"] * 11}, "orderBy: A list must have 1 to 10"),
    webhook("orderBy Conversation", {"orderBy": "Conversation"}, '"conversation", or null.'),
    webhook("orderBy with two", {"orderBy": ["data.a", "b"]}, "orderBy[1]: Must be a dotted"),
    webhook("orderBy of null", {"orderBy": [None]}, "webhook.orderBy[0]: Must be a dotted path"),
    webhook("orderBy of lists", {"orderBy": [["data.a"]]}, "webhook.orderBy[0]: Must be a dotted"),
    webhook("orderBy both", {"orderBy": ["conversation"]}, 'orderBy[0]: Write "conversation"'),
    webhook("orderBy long", {"orderBy": "data." + "a" * 300}, "webhook.orderBy: Must be a dotted"),
    webhook("onFailure", {"onFailure": "stop"}, "webhook.onFailure: Must be one of: pass, wait."),
    webhook("giveUpOn a number", {"giveUpOn": 404}, "webhook.giveUpOn: Not a valid list."),
    webhook("giveUpOn a text", {"giveUpOn": "404"}, "webhook.giveUpOn: Not a valid list."),
    webhook("giveUpOn texts", {"giveUpOn": ["404"]}, "webhook.giveUpOn[0]: Not a valid integer."),
    webhook("giveUpOn 2xx", {"giveUpOn": [404, 204]},
        "webhook.giveUpOn[1]: 204 means delivered. Name statuses from 300 to 999."),
    webhook("giveUpOn 1xx", {"giveUpOn": [101]}, "giveUpOn[0]: Must be an HTTP status from 300"),
    webhook("giveUpOn 1000", {"giveUpOn": [1000]}, "giveUpOn[0]: Must be an HTTP status from 300"),
    webhook("giveUpOn negative", {"giveUpOn": [-404]}, "giveUpOn[0]: Must be an HTTP status from"),
    webhook("giveUpOn half", {"giveUpOn": [404.5]}, "webhook.giveUpOn[0]: Not a valid integer."),
    webhook("giveUpOn true", {"giveUpOn": [True]}, "webhook.giveUpOn[0]: Not a valid integer."),
    webhook("giveUpOn null inside", {"giveUpOn": [None]}, "giveUpOn[0]: Field may not be null."),
    webhook("giveUpOn too long", {"giveUpOn": list(range(300, 401))},
        "webhook.giveUpOn: Longer than maximum length 100."),
    webhook("retry a number", {"retry": 5}, "webhook.retry: Not a valid list."),
    webhook("retry negative", {"retry": [5, -1]}, "webhook.retry[1]: Must be greater"),
    webhook("retry for weeks", {"retry": [604_801]}, "webhook.retry[0]: Must be greater"),
    webhook("retry text", {"retry": ["5"]}, "webhook.retry[0]: Not a valid number."),
    webhook("retry null inside", {"retry": [None]}, "webhook.retry[0]: Field may not be null."),
    webhook("retry too often", {"retry": [1] * 21}, "webhook.retry: Longer than maximum"),
    webhook("timeout 0", {"timeout": 0}, "webhook.timeout: Must be greater"),
    webhook("timeout 61", {"timeout": 61}, "webhook.timeout: Must be greater"),
    webhook("timeout huge", {"timeout": 10**500}, "webhook.timeout: Not a valid number."),
    raw("timeout 1e999", b'{"webhook": {"timeout": 1e999}}', "timeout: Not a valid number."),
    webhook("secret bare", {"secret": "c2VjcmV0"}, "webhook.secret: Must be whsec_"),
    webhook("secret empty", {"secret": ""}, "webhook.secret: Must be whsec_"),
    webhook("secret short", {"secret": "whsec_c2VjcmV0"}, "webhook.secret: Must be whsec_"),
    webhook("secret not base64", {"secret": "whsec_" + "é!" * 20}, "secret: Must be whsec_"),
    # the other sinks
    Case("nats wildcard", "/nats/set/a", {"enabled": False, "subject": "a.>"}, "Not a valid subj"),
    Case("nats braces", "/nats/set/a", {"enabled": False, "subject": "a.{tenant}"}, "Only {inst"),
    Case("nats brace", "/nats/set/a", {"enabled": False, "subject": "{event}.}"}, "Only {instance"),
    Case("nats gap", "/nats/set/a", {"enabled": False, "subject": "a..b"}, "Not a valid subject"),
    Case("nats space", "/nats/set/a", {"enabled": False, "subject": "a b"}, "Not a valid subject"),
    Case("nats inbox", "/nats/set/a", {"enabled": False, "subject": "_{instance}"}, "server's own"),
    Case("nats system", "/nats/set/a", {"enabled": False, "subject": "$JS.API.X"}, "server's own"),
    Case("exchange", "/rabbitmq/set/a", {"enabled": False, "exchange": "a b"}, "Must be 1 to 127"),
    Case("exchange own", "/rabbitmq/set/a", {"enabled": False, "exchange": "amq.x"}, "are the br"),
    Case("exchange empty", "/rabbitmq/set/a", {"enabled": False, "exchange": ""}, "Must be 1 to"),
    Case("queueUrl", "/sqs/set/a", {"enabled": False, "queueUrl": "sqs:q"}, "queueUrl: Not a val"),
    Case("queueUrl missing", "/sqs/set/a", {"enabled": True}, "sqs.queueUrl: Missing data"),
    Case("cluster", "/pusher/set/a", {"enabled": False, "cluster": "eu.evil.com"}, "cluster: Must"),
    Case("appId", "/pusher/set/a", {"enabled": False, "appId": "../x"}, "appId: Must be digits."),
    Case("pusher incomplete", "/pusher/set/a", {"enabled": True, "appId": "1"}, "key: Missing"),
    Case("useTLS", "/pusher/set/a", {"enabled": False, "useTLS": "no"}, "useTLS: Not a valid bool"),
    Case("oversize", "/pusher/set/a", {"enabled": False, "oversize": "drop"}, "oversize: Must be"),
    Case("unknown sink", "/kafka/set/a", {"enabled": True}, "Cannot POST /kafka/set/a", 404),
    Case("no sink", "/event/set/a", {"kafka": {"enabled": True}}, "At least one of webhook"),
    Case("event/set flat", "/event/set/a", {"enabled": True}, "At least one of webhook"),
    # create
    create("no name", {}, "instanceName: Missing data for required field."),
    create("name null", {"instanceName": None}, "instanceName: Field may not be null."),
    create("name a number", {"instanceName": 1}, "instanceName: Not a valid string."),
    create("name empty", {"instanceName": ""}, "Must be 1 to 100"),
    create("name long", {"instanceName": "a" * 101}, "Must be 1 to 100"),
    create("name with a slash", {"instanceName": "a/b"}, "Must be 1 to 100"),
    create("name with dots first", {"instanceName": "../a"}, "Must be 1 to 100"),
    create("name with a newline", {"instanceName": "a\n"}, "Must be 1 to 100"),
    create("name with NUL", {"instanceName": "a\x00"}, "Must be 1 to 100"),
    create("name with braces", {"instanceName": "a}{p0"}, "Must be 1 to 100"),
    create("name with a star", {"instanceName": "*"}, "Must be 1 to 100"),
    create("name of another alphabet", {"instanceName": "a１"}, "Must be 1 to 100"),
    create("name with quotes", {"instanceName": "a';--"}, "Must be 1 to 100"),
    create("integration", {"instanceName": "b", "integration": "X"}, "Invalid integration"),
    create("integration list", {"instanceName": "b", "integration": []}, "Invalid integration"),
    create("token empty", {"instanceName": "b", "token": ""}, "token: Must be 1 to 128"),
    create("token long", {"instanceName": "b", "token": "a" * 129}, "token: Must be 1 to 128"),
    create("token space", {"instanceName": "b", "token": "a b"}, "token: Must be 1 to 128"),
    create("token CRLF", {"instanceName": "b", "token": "a\r\n"}, "token: Must be 1 to 128"),
    create("token a number", {"instanceName": "b", "token": 1}, "token: Not a valid string."),
    create("number", {"instanceName": "b", "number": "x"}, "number: Not a valid number."),
    create("taken", {"instanceName": "a"}, 'This name "a" is already in use.', 403),
    create("webhook text", {"instanceName": "b", "webhook": "https://e.com"}, "Not an object."),
    create("webhook no url", {"instanceName": "b", "webhook": {}}, "webhook.url: Missing data"),
    # subscriptions
    sub("name", {"name": "a/b"}, "Must be 1 to 100"),
    sub("name missing", {"name": None}, "name: Field may not be null."),
    sub("sink", {"sink": "kafka"}, "sink: Must be one of: webhook, websocket"),
    sub("sink a list", {"sink": []}, "sink: Not a valid string."),
    sub("kept name", {"name": "pusher"}, "name: pusher is kept for the sink"),
    sub("enabled missing", {"enabled": None}, "enabled: Field may not be null."),
    sub("unknown field", {"colour": "red"}, "colour: Unknown field."),
    sub("hostile field", {"\u202e\x00" + "x" * 99: 1}, "...: Unknown field."),
    sub("another sink's field", {"exchange": "x"}, "exchange: Unknown field."),
    sub("url", {"url": "ftp://e.com"}, "url: Not a valid URL. It must begin with http://"),
    Case("put sink", CRM, {"sink": "nats"}, "sink: Cannot be changed.", method="PUT"),
    Case("put url", CRM, {"url": "x"}, "url: Not a valid URL.", method="PUT"),
    Case("put no url", CRM, {"url": None}, "url: Missing data for required field.", method="PUT"),
    Case("put many", CRM, {f"f{n}": 1 for n in range(999)}, "Unknown field.", method="PUT"),
    Case("put nobody", "/subscription/a/no", {}, "does not exist", 404, "PUT"),
    Case("put hostile", "/subscription/a/%00%0a", {}, "does not exist", 404, "PUT"),
    # routes
    Case("unknown route", "/nope", {}, "Cannot POST /nope", 404),
    Case("wrong method", SET, {}, f"Cannot PATCH {SET}; allowed: OPTIONS, POST", 405, "PATCH"),
    Case("hostile instance", "/webhook/set/%2e%2e%2f", {}, "does not exist", 404),
    Case("long instance", "/webhook/set/" + "a" * 3000, {}, "instance does not exist", 404),
]  # fmt: skip


@pytest.fixture
def settings(settings: Callable[..., Any]) -> Callable[..., Any]:
    """A small limit of bodies."""
    return lambda **changes: settings(max_body_bytes=65_536, **changes)


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_a_clear_4xx_and_changes_nothing(
    client: FlaskClient, call: Request, instance: str, dump: Dump, case: Case
) -> None:
    call("POST", SUB, OWN | {"name": "crm"})
    before = dump()

    how: dict[str, Any] = (
        {"data": case.body, "content_type": case.content_type}
        if isinstance(case.body, bytes)
        else {"json": case.body}
    )
    answer = client.open(case.path, method=case.method, headers=GLOBAL | case.headers, **how)

    assert answer.status_code == case.status
    assert answer.json is not None
    assert answer.json["status"] == case.status
    assert answer.json["error"] == HTTPStatus(case.status).phrase
    sentences = answer.json["response"]["message"]
    assert any(case.says in sentence for sentence in sentences), sentences
    assert len(sentences) <= 20
    assert len(answer.get_data()) < 8_000
    assert dump() == before


def test_a_body_that_ends_before_its_length_is_400(
    client: FlaskClient, instance: str, dump: Dump
) -> None:
    before = dump()

    answer = client.post(
        SET,
        headers=GLOBAL,
        content_type=JSON,
        input_stream=io.BytesIO(b'{"webhook": {"enabled": false}}'),
        environ_overrides={"CONTENT_LENGTH": "500", "wsgi.input_terminated": True},
    )

    assert answer.status_code == 400
    assert answer.json is not None
    assert answer.json["status"] == 400
    assert dump() == before


def test_a_body_of_unknown_length_is_bounded_too(
    client: FlaskClient, instance: str, dump: Dump
) -> None:
    before = dump()

    answer = client.post(
        SET,
        headers=GLOBAL,
        content_type=JSON,
        input_stream=io.BytesIO(b'{"webhook": {"enabled": false}}' + b" " * 200_000),
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )

    assert answer.status_code == 413
    assert dump() == before
