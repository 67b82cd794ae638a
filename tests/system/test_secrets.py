"""Secrets of tenants and of the operator: where they may not be found, and what happens to
deliveries while the key that seals them is exchanged, or is missing."""

from __future__ import annotations

import base64
import html
import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import redis
import requests
from rq.job import Job
from rq.serializers import JSONSerializer
from standardwebhooks.webhooks import Webhook

from evoflask import db, vault
from evoflask.dev.process import free_port, wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer
from evoflask.models import Instance, Subscription
from evoflask.settings import Settings
from evoflask.vault import new_key
from tests.conftest import ENCRYPTION_KEY
from tests.system.collector import Collector
from tests.system.conftest import MakeHouse
from tests.system.house import API_KEY, House, message

SIGNING = "whsec_" + base64.b64encode(b"planted-signing-secret-32-bytes!").decode()
PLANTED = {
    "signing secret": SIGNING,
    "header": 'Bearer planted-"header"\\0123<456>&789',
    "jwt key": "planted-jwt-key-of-a-webhook",
    "url": "planted-url-password",
    "pusher": "planted-pusher-secret",
    "sqs": "planted-sqs-secret-key",
    "rabbitmq": "planted-rabbitmq-password",
    "nats": "planted-nats-password",
    "operator": "whsec_" + base64.b64encode(b"planted-operator-secret-32-bytes").decode(),
    "token": "planted-instance-token",
    "redis": "planted-redis-password",
    "caller's key": "planted-key-of-an-emit",
    "api key": API_KEY,
    "encryption key": ENCRYPTION_KEY,
}


def spellings(secret: str) -> set[bytes]:
    """How it may stand somewhere."""
    bare = secret.removeprefix("whsec_").removeprefix("Bearer ")
    encoded, quoted = bare.encode(), json.dumps(bare)[1:-1]
    texts = {bare, quote(bare), quote(bare, safe=""), quote_plus(bare), encoded.hex()}
    texts |= {quoted, json.dumps(quoted)[1:-1], repr(bare)[1:-1]}
    texts |= {html.escape(bare), html.escape(quoted)}
    found = {text.encode() for text in texts}
    for shift in range(3):  # inside a longer base64 it may begin at any of three places
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            inner = encode(b"\x00" * shift + encoded)
            found.add(inner[4 if shift else 0 : -4])
    return found


def found_in(where: str, held: bytes) -> list[str]:
    """What was planted and is there."""
    return [
        f"{name} in {where}"
        for name, secret in PLANTED.items()
        if any(each in held for each in spellings(secret))
    ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    """What is told of in traces."""
    with Collector() as made:
        yield made


@pytest.fixture
def house(make_house: MakeHouse, tmp_path: Path, collector: Collector) -> House:
    """Where every server that tenants may use has a password, and none of them answers; traces
    are on, and Redis wants a password from all but us."""
    nobody = free_port()
    user = ("--user", "evo", "on", f">{PLANTED['redis']}", "~*", "&*", "+@all")
    server = RedisServer(tmp_path / "redis", appendonly=True, options=user)
    return make_house(
        redis_server=server,
        redis_url=server.url.replace("//", f"//evo:{PLANTED['redis']}@"),
        traces="on",
        otel_exporter_otlp_endpoint=collector.endpoint,
        otel_service_name="evoflask-test",
        otel_bsp_schedule_delay=200,
        log_level="debug",
        retry_schedule="0.1",
        breaker_threshold=1_000,
        rabbitmq_uri=f"amqp://u:{PLANTED['rabbitmq']}@127.0.0.1:{nobody}/",
        nats_uri=f"nats://u:{PLANTED['nats']}@127.0.0.1:{nobody}",
        sqs_endpoint_url=f"http://127.0.0.1:{nobody}",
        sqs_region="eu-west-1",
        pusher_host="127.0.0.1",
        pusher_port=nobody,
        operator_webhook_url=f"http://127.0.0.1:{nobody}/operator",
        operator_webhook_secret=PLANTED["operator"],
    )


EVENT = "event-of-the-test"
SUBSCRIPTIONS = ("crm", "echo", "json", "pusher", "sqs", "rabbitmq", "nats")


def plant(house: House, receiver: Receiver) -> None:
    """A tenant that has them all, and whose deliveries all fail."""
    client = house.client()
    client.create("a", token=PLANTED["token"])
    headers = {"Authorization": PLANTED["header"]}
    hook = {"headers": headers, "secret": SIGNING, "enabled": True}
    signed = {**hook, "headers": {**headers, "jwt_key": PLANTED["jwt key"]}}
    client.subscribe("a", "crm", receiver.url("/status/500"), **signed)
    # It answers with what it was sent: that may be shown, and must not show them.
    client.subscribe("a", "echo", receiver.url("/status/400?echo=1"), **hook)
    client.subscribe("a", "json", receiver.url("/status/400?echo=json"), **hook)
    port = house.env["PUSHER_PORT"]
    for sink, own in {
        "pusher": {"appId": "1", "key": "k", "secret": PLANTED["pusher"], "cluster": "eu",
                   "useTLS": False},
        "sqs": {"queueUrl": f"http://127.0.0.1:{port}/1/q", "accessKeyId": "AKID",
                "secretAccessKey": PLANTED["sqs"]},
        "rabbitmq": {},
        "nats": {},
    }.items():  # fmt: skip
        client.good("POST", "/subscription/a", {"name": sink, "sink": sink, "enabled": True, **own})
    plant_in_url(house)
    client.emit("a", data=message(1), id=EVENT, apiKey=PLANTED["caller's key"])
    # Letters of the operator's own webhook, that these were written, come beside them.
    wait_for(
        lambda: {each["subscription"] for each in letters(house)} >= set(SUBSCRIPTIONS),
        90,
        "a letter of each",
        0.2,
    )


def plant_in_url(house: House) -> None:
    """As rows of earlier versions may have it."""
    db.connect(Settings.from_env(house.env))
    try:
        row = Subscription.get(Subscription.name == "crm")
        own = row.open_settings()
        own["url"] = own["url"].replace("//", f"//user:{PLANTED['url']}@")
        with db.writing():
            changed = Subscription.update(settings=json.dumps(own), version=row.version + 1)
            changed.where(Subscription.id == row.id).execute()
            revision = {Instance.revision: Instance.revision + 1, Instance.updated_at: 0}
            Instance.update(revision).where(Instance.name == "a").execute()
    finally:
        db.close()
    wait_for(lambda: not house.query("SELECT 1 FROM instance WHERE pushed != revision"), 20)


def letters(house: House) -> list[dict[str, object]]:
    found: list[dict[str, object]] = house.client().good("GET", "/deadletter")["letters"]
    return found


def answers(house: House) -> Iterator[tuple[str, bytes]]:
    """Everything that can be asked for."""
    client = house.client()
    of_each = [
        (method, path.format(name))
        for name in SUBSCRIPTIONS
        for method, path in (
            ("GET", "/subscription/a/{}"),
            ("POST", "/subscription/a/{}/test"),
            ("PUT", "/subscription/a/{}"),
        )
    ]
    asked = [
        *of_each,
        ("GET", "/instance/fetchInstances"),
        ("GET", "/event/find/a"),
        ("GET", "/subscription/a"),
        ("GET", f"/event/a/{EVENT}"),
        ("GET", "/attempt?instance=a"),
        ("GET", "/deadletter"),
        ("GET", "/lane"),
        ("GET", "/audit-log"),
        ("GET", "/operation"),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("POST", "/replay"),
        *(("POST", f"/deadletter/{letter['id']}/requeue") for letter in letters(house)[:1]),
    ]
    for method, path in asked:
        body = {"instance": "a", "ids": [EVENT], "onto": "crm"} if path == "/replay" else {}
        answer = client.call(method, path, None if method == "GET" else body)
        yield f"{method} {path} ({answer.status_code})", answer.content


def dashboard(house: House) -> Iterator[tuple[str, bytes]]:
    """The pages of /rq/, and the jobs behind them as they lie in Redis, where they are packed."""
    base = f"http://127.0.0.1:{house.port}"
    pages = ["/rq/", "/rq/0/data/queues.json", "/rq/0/data/workers.json"]
    for sink in ("webhook", "pusher", "sqs", "rabbitmq", "nats"):
        pages.append(f"/rq/0/data/jobs/{sink}/failed/50/asc/1.json")
    jobs = [key.decode().removeprefix("rq:job:") for key in house.raw.scan_iter("rq:job:dl-*")]
    pages += [f"/rq/0/data/job/{job}.json" for job in jobs]
    for page in pages:
        answer = requests.get(base + page, headers={"apikey": API_KEY}, timeout=10)
        yield f"GET {page} ({answer.status_code})", answer.content
    with redis.Redis.from_url(house.redis.url) as raw:
        for job in Job.fetch_many(jobs, connection=raw, serializer=JSONSerializer):
            if job is None:  # its letter was settled since
                continue
            result = job.latest_result()
            yield f"job {job.id}", repr((job.to_dict(), result and result.exc_string)).encode()


def files(house: House) -> Iterator[tuple[str, bytes]]:
    """The database, Redis' files, and what the processes wrote."""
    house.raw.save()
    above = house.folder.parent
    for path in sorted([*house.folder.rglob("*"), *house.redis.data.rglob("*")]):
        if path.is_file() and not path.is_socket():
            yield str(path.relative_to(above)), path.read_bytes()


def commands(house: House) -> Iterator[tuple[str, bytes]]:
    for words in (
        ("lanes",),
        ("attempts",),
        ("deadletters", "list"),
        ("audit-log",),
        ("explain", "a", EVENT),
        ("doctor",),
        ("test-subscription", "a", "crm"),
    ):
        yield " ".join(words), house.flask(*words)[1].encode()


def spans(collector: Collector) -> Iterator[tuple[str, bytes]]:
    wait_for(lambda: len(collector.spans("deliver webhook")) >= 2, 20, "the spans")
    for n, body in enumerate(collector.bodies):
        yield f"spans {n}", body


def test_no_secret_is_found_where_it_is_not_used(
    house: House, receiver: Receiver, collector: Collector
) -> None:
    plant(house, receiver)

    looked = 0
    found: list[str] = []
    places = [kind(house) for kind in (answers, dashboard, commands, files)]
    for where, held in chain(*places, spans(collector)):
        looked += 1
        found += found_in(where, held)

    print(f"{len(PLANTED)} secrets were looked for in {looked} places")
    assert found == []
    assert looked > 70


@pytest.mark.parametrize(
    "spell",
    [
        str,
        json.dumps,
        lambda text: json.dumps({"detail": json.dumps({"in": text})}),
        quote,
        lambda text: "https://host/?q=" + quote(text, safe=""),
        lambda text: str({"held": text}),
        lambda text: f"<td>{html.escape(text)}</td>",
        lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
        lambda text: base64.urlsafe_b64encode(f"it is {text} there".encode()).decode(),
        lambda text: f"before {text} after".encode().hex(),
    ],
)
def test_each_spelling_of_each_is_noticed(spell: Callable[[str], str]) -> None:
    for name, secret in PLANTED.items():
        bare = secret.removeprefix("whsec_").removeprefix("Bearer ")
        assert f"{name} in a" in found_in("a", f"x{spell(bare)}x".encode())


def test_what_looks_for_them_finds_them(house: House, receiver: Receiver) -> None:
    """In an event's own data they are no secret: there, and in its letter's row, they must be
    found, by the same search."""
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/400"))
    client.emit("a", data=dict(PLANTED))
    house.wait_quiet()
    names = set(PLANTED)

    places = {where: found_in(where, held) for where, held in files(house)}

    for part in ("house.db", "redis/"):
        there = {each for where, found in places.items() if part in where for each in found}
        assert {each.partition(" in ")[0] for each in there} == names


@pytest.mark.slow
@pytest.mark.beside
def test_while_the_key_is_exchanged_nothing_becomes_undeliverable(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(web=2, workers=2)
    receiver.control(keep=True)
    client = house.client()
    client.create("a")
    hook = {"headers": {"Authorization": PLANTED["header"]}, "secret": SIGNING}
    client.set_webhook("a", receiver.url("/ok"), **hook)
    client.subscribe("a", "idle", receiver.url("/idle"), enabled=False)
    accepted: list[str] = []
    stop = threading.Event()

    def emit() -> None:
        mine = house.client()
        while not stop.is_set():
            body = {"event": "CALL", "data": message(len(accepted)), "id": f"e{len(accepted)}"}
            accepted.append(mine.insist("/event/emit/a", body).json()["id"])

    def restart(keys: str) -> None:
        """As the manual says: one process after the other, the web last; and between them
        somebody changes the subscription, which seals it by whatever key that web process has."""
        house.env["ENCRYPTION_KEY"] = keys
        for kind, n in (("worker", 0), ("worker", 1), ("clock", 0), ("web", 0), ("web", 1)):
            before = len(accepted)
            house.stop(kind, n)
            house.start(kind, n)
            house.wait_started(kind, n)
            wait_for(lambda: client.call("PUT", "/subscription/a/webhook", {"timeout": 9}).ok, 30)
            wait_for(lambda before=before: len(accepted) > before + 5, 30, "traffic to go on")

    emitter = threading.Thread(target=emit)
    emitter.start()
    new = new_key()
    try:
        restart(f"{new},{ENCRYPTION_KEY}")
        before = house.flask("secrets", "check")
        rotated = house.flask("secrets", "rotate")
        restart(new)
        after = house.flask("secrets", "check")
    finally:
        stop.set()
        emitter.join()
    house.wait_quiet()

    arrived = receiver.received()
    assert before[0] == 1
    assert (rotated[0], after[0]) == (0, 0)
    assert {each.id for each in arrived} == set(accepted)
    assert letters(house) == []
    assert house.off() == {}
    assert not any(vault.CLOSED in log for log in house.logs())
    verifier = Webhook(SIGNING)
    for each in arrived:
        assert each.headers()["authorization"] == PLANTED["header"]
        verifier.verify(each.body.encode("latin-1"), each.headers())
    print(f"{len(accepted)} accepted, {len(arrived)} arrived, all signed")


def arrived(receiver: Receiver, path: str) -> int:
    """How many requests came to a path."""
    return int(receiver.counts()["paths"].get(path, 0))


@pytest.mark.slow
@pytest.mark.beside
def test_without_the_key_deliveries_wait_and_others_go_on(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    new = new_key()
    house = make_house()
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    house.env["ENCRYPTION_KEY"] = new
    for kind in ("web", "worker", "clock"):
        house.restart(kind)
    client = house.client()
    client.create("b")
    client.set_webhook("b", receiver.url("/b"))

    closed = client.emit("a", data=message(1))
    for n in range(20):
        client.emit("b", data=message(n))
    wait_for(lambda: arrived(receiver, "/b") == 20, 30, "the others' events")
    lane = next(each for each in client.good("GET", "/lane")["lanes"] if each["instance"] == "a")

    assert closed.status_code == 202
    assert lane["backlog"] == 1
    assert lane["lastError"] == "A stored secret opens with none of the keys in ENCRYPTION_KEY."
    assert arrived(receiver, "/a") == 0
    assert letters(house) == []
    assert client.call("GET", "/webhook/find/a").status_code == 503
    told = client.good("GET", "/readyz")["parts"]["secrets"]
    assert (told["state"], told["closed"]) == ("warning", 1)
    assert "evoflask_secrets_closed 1.0" in client.call("GET", "/metrics").text
    assert vault.CLOSED in house.tail()
    listed = client.good("GET", "/instance/fetchInstances")
    assert {each["name"]: "error" in each["Webhook"] for each in listed} == {"a": True, "b": False}
    house.env["ENCRYPTION_KEY"] = f"{new},{ENCRYPTION_KEY}"
    for kind in ("web", "worker", "clock"):
        house.restart(kind)
    began = time.monotonic()
    wait_for(lambda: arrived(receiver, "/a") == 1, 60, "the event, once the key is back")
    print(f"delivered {time.monotonic() - began:.1f} s after the key was back")
    house.wait_quiet()
    assert house.off() == {}
