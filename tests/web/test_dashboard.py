"""rq-dashboard at /rq/: who is let in, what its buttons do, and what its pages may not run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq import SimpleWorker
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

import app as composition
from evoflask import bell, mirror, models
from evoflask.keyring import Key, Keyring
from evoflask.mirror import Mirror
from evoflask.models import DeadLetter
from evoflask.outbox import Outbox
from evoflask.settings import Settings
from evoflask.sinks import delivering
from evoflask.web.dashboard.session import Sessions
from tests.conftest import API_KEY
from tests.web import steps
from tests.web.conftest import Request

QUEUE = "evoflask:webhook"
FAILED = f"/rq/0/data/jobs/{QUEUE}/failed/8/asc/1.json"

Die = Callable[..., list[int]]
Post = Callable[[str], TestResponse]


@pytest.fixture
def die(call: Request, outbox: Outbox, instance: str, redis_client: redis.Redis) -> Die:
    """`die(3)`: letters that are shown; their numbers, newest first."""

    def run(n: int = 1, **event: Any) -> list[int]:
        body = [{"event": "CALL", "data": {"n": each}, **event} for each in range(n)]
        assert call("POST", "/event/emit/a", body).status_code == 202
        assert steps.kill(outbox) == n
        Mirror(redis_client, delivering(), 1000).tick()
        return mirror.shown(redis_client, "webhook")

    return run


@pytest.fixture
def log_in(client: FlaskClient) -> Callable[..., TestResponse]:
    """Sends the form: `log_in("a key")`."""

    def send(key: str = API_KEY, path: str = "/rq/login") -> TestResponse:
        return client.post(path, data={"key": key})

    return send


@pytest.fixture
def post(client: FlaskClient, log_in: Callable[..., TestResponse]) -> Post:
    """A click of somebody who is logged in: with cookie and token."""
    assert log_in().status_code == 303

    def send(path: str) -> TestResponse:
        return client.post(f"/rq/{path}", headers={"X-CSRFToken": token(client)})

    return send


def token(client: FlaskClient) -> str:
    cookie = client.get_cookie("_csrf_token", path="/rq/")
    assert cookie is not None
    return cookie.value


def message(answer: TestResponse) -> str:
    return " ".join(answer.json["response"]["message"])


def still_open() -> list[int]:
    query = DeadLetter.requeued_at.is_null() & DeadLetter.discarded_at.is_null()
    return [row.id for row in DeadLetter.select().where(query).order_by(DeadLetter.id.desc())]


def noted() -> list[tuple[Any, ...]]:
    query = models.AuditLog.select().where(models.AuditLog.action.startswith("deadletter."))
    return [(row.by, row.action, row.facts) for row in query]


# -- who is let in --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "0/view/workers", "0/view/job/dl-1"])
def test_a_page_without_a_login_leads_to_the_form(client: FlaskClient, path: str) -> None:
    answer = client.get(f"/rq/{path}")

    assert answer.status_code == 303
    assert answer.headers["Location"] == f"/rq/login?next=/rq/{path}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "0/data/queues.json"),
        ("GET", "0/data/workers.json"),
        ("GET", "0/data/job/dl-1.json"),
        ("POST", "job/dl-1/requeue"),
        ("POST", "job/dl-1/delete"),
        ("POST", f"requeue/{QUEUE}"),
        ("GET", f"requeue/{QUEUE}"),
        ("POST", f"queue/{QUEUE}/failed/empty"),
        ("POST", f"queue/{QUEUE}/compact"),
    ],
)
@pytest.mark.parametrize("headers", [{}, {"apikey": "token-a"}])
def test_data_and_buttons_are_401_without_the_global_key(
    client: FlaskClient, die: Die, method: str, path: str, headers: dict[str, str]
) -> None:
    (letter,) = die()

    answer = client.open(f"/rq/{path}", method=method, headers=headers)

    assert answer.status_code == 401
    assert still_open() == [letter]


def test_every_address_of_theirs_is_behind_the_guard(
    application: Flask, client: FlaskClient
) -> None:
    values = {
        "instance_number": 0, "queue_name": QUEUE, "registry_name": "failed", "per_page": 8,
        "order": "asc", "page": 1, "job_id": "dl-1",
    }  # fmt: skip
    rules = [r for r in application.url_map.iter_rules() if r.endpoint.startswith("rq_dashboard.")]

    for rule in rules:
        with application.test_request_context():
            built = rule.build({name: values.get(name, "x") for name in rule.arguments})
        assert built is not None
        for method in rule.methods & {"GET", "POST"}:
            status = client.open(built[1], method=method).status_code
            public = rule.endpoint in ("rq_dashboard.static", "rq_dashboard.favicon")
            # 308: to the same page by its shortest address.
            assert status in ((200, 404) if public else (303, 308, 401)), rule

    assert len(rules) > 15


def test_the_header_is_enough(call: Request, die: Die) -> None:
    (letter,) = die()

    assert call("GET", "/rq/").status_code == 200
    assert call("GET", FAILED).json["jobs"][0]["id"] == f"dl-{letter}"
    assert call("POST", f"/rq/job/dl-{letter}/requeue").status_code == 200


def test_the_form_sets_a_cookie_that_no_script_reads_and_no_other_site_sends(
    client: FlaskClient, log_in: Callable[..., TestResponse]
) -> None:
    answer = log_in(path="/rq/login?next=/rq/0/view/jobs")

    session, same, csrf = answer.headers.getlist("Set-Cookie")
    assert answer.headers["Location"] == "/rq/0/view/jobs"
    assert all(word in session for word in ("HttpOnly", "SameSite=Strict", "Path=/rq/", "Max-Age"))
    assert same == session.replace("Path=/rq/", "Path=/docs")
    assert "HttpOnly" not in csrf
    assert API_KEY not in session + csrf
    assert client.get("/rq/").status_code == 200


def test_the_cookie_is_marked_secure_where_the_login_was(client: FlaskClient) -> None:
    answer = client.post("/rq/login", data={"key": API_KEY}, base_url="https://localhost")

    assert all("Secure" in each for each in answer.headers.getlist("Set-Cookie"))


@pytest.mark.parametrize("where", ["https://evil.example/", "//evil.example", "/instance", "x"])
def test_a_login_leads_to_no_other_site(log_in: Callable[..., TestResponse], where: str) -> None:
    assert log_in(path=f"/rq/login?next={where}").headers["Location"] == "/rq/"


def test_a_token_does_not_open_the_page_and_sets_no_cookie(
    client: FlaskClient, log_in: Callable[..., TestResponse], instance: str
) -> None:
    answer = log_in("token-a")

    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers
    assert "opens /docs, and not this page" in answer.text
    assert client.get("/rq/").status_code == 303


@pytest.mark.parametrize("key", ["", "wrong", API_KEY + "x", "ü" * 300])
def test_a_wrong_key_is_401_and_sets_no_cookie(
    client: FlaskClient, log_in: Callable[..., TestResponse], instance: str, key: str
) -> None:
    answer = log_in(key)

    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "not a key for this page" in answer.text
    assert client.get("/rq/").status_code == 303


def test_after_too_many_wrong_keys_the_right_one_still_opens_the_page(
    client: FlaskClient, settings: Callable[..., Settings]
) -> None:
    client = composition.create_app(settings(auth_failures_per_minute=3)).test_client()
    for _ in range(3):
        client.post("/rq/login", data={"key": "wrong"})

    refused = client.post("/rq/login", data={"key": "another"})
    right = client.post("/rq/login", data={"key": API_KEY})

    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 61
    assert right.status_code == 303


PROXY = {
    "X-Forwarded-Proto": "http, https",
    "X-Forwarded-Host": "evil.example, hooks.example",
    "X-Forwarded-Prefix": "/evil, /evo/",
    "X-Script-Name": "/other",
    "Script-Name": "/other",
}


def behind(settings: Callable[..., Settings], trusted: str) -> FlaskClient:
    networks = Settings.from_env({"TRUSTED_PROXIES": trusted}).trusted_proxies
    return composition.create_app(settings(trusted_proxies=networks)).test_client()


def test_behind_a_trusted_proxy_cookies_are_secure_and_links_have_its_prefix(
    settings: Callable[..., Settings], application: Flask
) -> None:
    client = behind(settings, "127.0.0.0/8")

    asked = client.get("/rq/", headers=PROXY)
    form = client.get("/rq/login?next=/rq/", headers=PROXY)
    entered = client.post("/rq/login?next=/rq/", data={"key": API_KEY}, headers=PROXY)
    docs = client.get("/docs", headers={**PROXY, "apikey": API_KEY})
    api = client.get("/openapi.json", headers={**PROXY, "apikey": API_KEY})
    cookies = entered.headers.getlist("Set-Cookie")
    page = client.get("/rq/", headers={**PROXY, "apikey": API_KEY})

    assert asked.headers["Location"] == "/evo/rq/login?next=/rq/"
    assert 'href="/evo/rq/static/css/bootstrap.min.css"' in form.text
    assert entered.headers["Location"] == "/evo/rq/"
    assert len(cookies) == 3
    assert all("Secure" in each for each in cookies)
    assert {re.findall(r"Path=([^;]+)", each)[0] for each in cookies} == {"/evo/rq/", "/evo/docs"}
    assert "/evo/docs/page.css" in docs.text
    assert api.json["servers"] == [{"url": "/evo"}]
    assert not re.findall(r'(?:href|src)="/(?!evo/)[^"]', page.text)


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8"])
def test_from_any_other_peer_no_forwarding_header_is_obeyed(
    settings: Callable[..., Settings], application: Flask, trusted: str
) -> None:
    client = behind(settings, trusted)

    asked = client.get("/rq/", headers=PROXY)
    entered = client.post("/rq/login", data={"key": API_KEY}, headers=PROXY)
    api = client.get("/openapi.json", headers={**PROXY, "apikey": API_KEY})

    assert asked.headers["Location"] == "/rq/login?next=/rq/"
    assert entered.headers["Location"] == "/rq/"
    assert not any("Secure" in each for each in entered.headers.getlist("Set-Cookie"))
    assert api.json["servers"] == [{"url": "/"}]


@pytest.mark.parametrize(
    "prefix",
    ["evo", "//evil.example", "/evo/../x", "/a b", "https://evil", "/x" * 300, "/%2e", "/"],
)
def test_a_prefix_that_is_no_path_is_ignored(
    settings: Callable[..., Settings], application: Flask, prefix: str
) -> None:
    client = behind(settings, "127.0.0.0/8")

    asked = client.get("/rq/", headers={"X-Forwarded-Prefix": prefix})

    assert asked.headers["Location"] == "/rq/login?next=/rq/"


def test_a_cookie_ends_with_its_time_and_with_the_key() -> None:
    keys = Keyring("a-key", [("more", "another-key")], [("eyes", "a-read-only-key")])
    ours = Sessions(keys, 100)
    key = Key("eyes", read_only=True)
    cookie = ours.issue(key, 1_000.0)
    until, nonce, name, mark = cookie.split(".")

    assert ours.key(cookie, 1_099.0) == key
    assert ours.key(cookie, 1_100.0) is None
    assert Sessions(Keyring("a-key", [], [("eyes", "another")]), 100).key(cookie, 1_000.0) is None
    assert Sessions(Keyring("a-key"), 100).key(cookie, 1_000.0) is None
    for forged in (
        f"{int(until) + 1}.{nonce}.{name}.{mark}",
        f"{until}.{nonce}.global.{mark}",
        f"{until}.{nonce}.more.{mark}",
        "",
        "...",
        f"{until}.{nonce}.{name}.",
        "x" * 9999,
    ):
        assert ours.key(forged, 1_000.0) is None


def test_a_read_only_key_looks_and_does_nothing(
    settings: Callable[..., Settings], die: Die
) -> None:
    (letter,) = die()
    eyes = composition.create_app(settings(api_keys_read_only=(("eyes", "e" * 16),))).test_client()
    logged_in = eyes.post("/rq/login", data={"key": "e" * 16})
    csrf = next(
        each.split("=", 1)[1].split(";")[0]
        for each in logged_in.headers.getlist("Set-Cookie")
        if each.startswith("_csrf_token")
    )

    clicked = eyes.post(f"/rq/job/dl-{letter}/requeue", headers={"X-CSRFToken": csrf})
    by_header = eyes.post(f"/rq/job/dl-{letter}/requeue", headers={"apikey": "e" * 16})

    assert eyes.get("/rq/").status_code == 200
    assert (clicked.status_code, by_header.status_code) == (403, 403)
    assert eyes.get(FAILED).json["jobs"][0]["id"] == f"dl-{letter}"


@pytest.mark.parametrize("given", [None, "", "0" * 64, "ü"])
def test_a_click_without_the_sessions_token_does_nothing(
    client: FlaskClient, die: Die, log_in: Callable[..., TestResponse], given: str | None
) -> None:
    (letter,) = die()
    log_in()
    headers = {} if given is None else {"X-CSRFToken": given}

    answer = client.post(f"/rq/job/dl-{letter}/delete", headers=headers)

    assert answer.status_code == 401
    assert "token" in message(answer)
    assert still_open() == [letter]


def test_the_token_of_another_session_does_not_count(
    application: Flask, client: FlaskClient, die: Die, log_in: Callable[..., TestResponse]
) -> None:
    (letter,) = die()
    other = application.test_client()
    other.post("/rq/login", data={"key": API_KEY})
    log_in()

    answer = client.post(f"/rq/job/dl-{letter}/delete", headers={"X-CSRFToken": token(other)})

    assert answer.status_code == 401
    assert still_open() == [letter]


def test_logging_out_forgets_the_cookies(client: FlaskClient, post: Post) -> None:
    assert client.post("/rq/logout").status_code == 401

    assert post("logout").status_code == 303

    assert client.get("/rq/").status_code == 303


# -- what is shown --------------------------------------------------------------------------


def test_its_pages_work_and_show_no_address_of_redis(
    client: FlaskClient, die: Die, post: Post, redis_url: str
) -> None:
    (letter,) = die()

    for path in ("", "0/view/queues", "0/view/workers", "0/view/jobs", f"0/view/job/dl-{letter}"):
        page = client.get(f"/rq/{path}", follow_redirects=True)
        assert page.status_code == 200, path
        assert "redis.sock" not in page.text
        assert redis_url not in page.text
        assert 'href="/rq/favicon.ico"' in page.text
        assert page.headers["Cache-Control"] == "no-store"
    queues = {q["name"]: q for q in client.get("/rq/0/data/queues.json").json["queues"]}
    assert queues[QUEUE]["failed_job_registry_count"] == 1


def test_a_queue_with_letters_and_no_bell_ever_is_shown_too(
    client: FlaskClient, die: Die, post: Post, redis_client: redis.Redis
) -> None:
    die()
    for key in redis_client.scan_iter("rq:*"):
        redis_client.delete(key)
    Mirror(redis_client, delivering(), 1000).tick()

    queues = [q["name"] for q in client.get("/rq/0/data/queues.json").json["queues"]]

    assert QUEUE in queues


def test_the_reason_is_readable_in_the_list_and_at_the_letter(
    client: FlaskClient, die: Die, post: Post
) -> None:
    (letter,) = die(id="order-1")

    (listed,) = client.get(FAILED).json["jobs"]
    alone = client.get(f"/rq/0/data/job/dl-{letter}.json").json

    assert listed["description"] == "webhook a/webhook CALL order-1 410 after 1 try"
    assert "410: gone for good" in listed["exc_info"]
    assert alone["exc_info"] == listed["exc_info"]
    assert (alone["status"], alone["origin"]) == ("failed", QUEUE)


def test_what_a_tenant_writes_runs_nowhere(client: FlaskClient, die: Die, post: Post) -> None:
    (letter,) = die(id="<img/src=x/onerror=alert(1)>")

    alone = client.get(f"/rq/0/data/job/dl-{letter}.json").text
    page = client.get(f"/rq/0/view/job/dl-{letter}")

    assert "<img" not in alone
    assert "&lt;img/src=x" in alone
    policy = page.headers["Content-Security-Policy"]
    (nonce,) = set(re.findall(r'<script nonce="([^"]+)" type="text/javascript">', page.text))
    assert f"'nonce-{nonce}'" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    assert '<script type="text/javascript">' not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "1/view/queues",
        "0/view/job/dl-99",
        "0/data/job/nothing.json",
        f"0/data/jobs/{QUEUE}/nonsense/8/asc/1.json",
        f"0/data/jobs/{QUEUE}/failed/0/asc/1.json",
        f"0/data/jobs/{QUEUE}/failed/9999/asc/1.json",
        f"0/data/jobs/{QUEUE}/failed/x/asc/1.json",
        f"0/data/jobs/{QUEUE}/failed/8/up/1.json",
        f"0/data/jobs/{QUEUE}/failed/8/asc/-1.json",
    ],
)
def test_an_address_that_means_nothing_is_404(call: Request, instance: str, path: str) -> None:
    assert call("GET", f"/rq/{path}").status_code == 404


def test_a_worker_that_is_busy_is_shown_and_nothing_is_unpickled(
    call: Request, redis_client: redis.Redis
) -> None:
    worker = SimpleWorker(
        [bell.queue(redis_client, "webhook")], connection=redis_client, serializer=JSONSerializer
    )
    worker.register_birth()
    bell.ring(redis_client, "webhook")
    (job,) = bell.queue(redis_client, "webhook").jobs
    worker.prepare_execution(job)

    (told,) = call("GET", "/rq/0/data/workers.json").json["workers"]

    assert told["queues"] == [QUEUE]
    assert told["current_job"]["description"] == "drain webhook"


def test_it_is_503_while_rqs_redis_is_away(
    client: FlaskClient, application: Flask, post: Post, tmp_path: Any
) -> None:
    application.redis_conn = bell.connect(f"unix://{tmp_path}/nobody")  # type: ignore[attr-defined]

    answer = client.get("/rq/0/data/queues.json")

    assert answer.status_code == 503
    assert message(answer) == "RQ's Redis cannot be used now."


# -- what its buttons do --------------------------------------------------------------------


def test_requeue_delivers_the_event_again_and_the_letter_disappears_at_once(
    die: Die, post: Post, outbox: Outbox, redis_client: redis.Redis
) -> None:
    newest, oldest = die(2)

    answer = post(f"job/dl-{oldest}/requeue")

    assert answer.json["message"] == f"Letter {oldest} is delivered again."
    assert still_open() == mirror.shown(redis_client, "webhook") == [newest]
    assert steps.end_all(outbox, steps.delivered) == 1
    assert noted() == [("dashboard", "deadletter.requeue", {"letter": oldest})]


def test_delete_gives_the_letter_up(die: Die, post: Post, redis_client: redis.Redis) -> None:
    newest, oldest = die(2)

    assert post(f"job/dl-{newest}/delete").status_code == 200

    assert still_open() == mirror.shown(redis_client, "webhook") == [oldest]
    assert noted() == [("dashboard", "deadletter.discard", {"letter": newest})]


def test_requeue_all_is_for_the_letters_of_that_queue_that_are_shown(
    die: Die, post: Post, outbox: Outbox, redis_client: redis.Redis
) -> None:
    letters = die(7)
    Mirror(redis_client, delivering(), 5).tick()

    other = post("requeue/evoflask:sqs")
    answer = post(f"requeue/{QUEUE}")

    assert (other.json["count"], answer.json["count"]) == (0, 5)
    assert still_open() == letters[5:]
    assert mirror.shown(redis_client, "webhook") == []
    assert steps.end_all(outbox, steps.delivered) == 5
    assert noted() == [("dashboard", "deadletter.requeue", {"sink": "webhook", "done": 5, "of": 5})]


def test_requeue_all_says_what_is_left(
    die: Die, post: Post, call: Request, redis_client: redis.Redis
) -> None:
    letters = die(2)
    assert call("DELETE", "/subscription/a/webhook").status_code == 200

    answer = post(f"requeue/{QUEUE}")

    assert answer.json["message"].startswith("Letters that are delivered again: 0.")
    assert answer.json["message"] != "Letters that are delivered again: 0."
    assert mirror.shown(redis_client, "webhook") == letters


def test_requeue_all_is_no_get(client: FlaskClient, die: Die, post: Post) -> None:
    letters = die(2)

    answer = client.get(f"/rq/requeue/{QUEUE}")

    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert still_open() == letters


def test_empty_gives_up_what_is_shown_and_nothing_else(
    die: Die, post: Post, redis_client: redis.Redis
) -> None:
    letters = die(5)
    Mirror(redis_client, delivering(), 3).tick()

    assert post(f"queue/{QUEUE}/failed/empty").json["count"] == 3

    assert still_open() == letters[3:]
    assert mirror.shown(redis_client, "webhook") == []


def test_a_letter_that_was_settled_elsewhere_is_404_and_disappears(
    die: Die, post: Post, call: Request, redis_client: redis.Redis
) -> None:
    (letter,) = die()
    call("DELETE", f"/deadletter/{letter}")

    answer = post(f"job/dl-{letter}/requeue")

    assert answer.status_code == 404
    assert message(answer) == f"Dead letter {letter} was settled already."
    assert mirror.shown(redis_client, "webhook") == []


def test_a_letter_without_a_subscription_is_409_with_a_sentence_and_stays(
    die: Die, post: Post, call: Request, redis_client: redis.Redis
) -> None:
    (letter,) = die()
    assert call("DELETE", "/subscription/a/webhook").status_code == 200

    answer = post(f"job/dl-{letter}/requeue")

    assert answer.status_code == 409
    assert message(answer) == f"The subscription of dead letter {letter} was deleted."
    assert mirror.shown(redis_client, "webhook") == [letter]


def test_a_letter_whose_job_was_lost_can_be_requeued_all_the_same(
    die: Die, post: Post, redis_client: redis.Redis
) -> None:
    (letter,) = die()
    for key in redis_client.scan_iter("rq:*"):
        redis_client.delete(key)

    assert post(f"job/dl-{letter}/requeue").status_code == 200

    assert still_open() == []


def test_bells_may_be_deleted_and_emptied_but_not_requeued(
    client: FlaskClient, instance: str, post: Post, redis_client: redis.Redis
) -> None:
    for _ in range(3):
        bell.ring(redis_client, "webhook")
    first = bell.queue(redis_client, "webhook").get_job_ids()[0]

    refused = post(f"job/{first}/requeue")
    gone = post(f"job/{first}/delete")
    missing = post("job/nothing/delete")
    compacted = post(f"queue/{QUEUE}/compact")
    left = bell.queue(redis_client, "webhook").count
    emptied = post(f"queue/{QUEUE}/queued/empty")

    assert (refused.status_code, gone.json["status"]) == (409, "OK")
    assert "Only dead letters" in message(refused)
    assert missing.json["status"] == "ERROR"
    assert (compacted.status_code, left, emptied.status_code) == (200, 2, 200)
    assert bell.queue(redis_client, "webhook").count == 0


def test_emptying_a_queue_discards_no_letter_that_rqs_tools_put_there(
    die: Die, post: Post, redis_client: redis.Redis
) -> None:
    (letter,) = die()
    Job.fetch(mirror.job_id(letter), connection=redis_client, serializer=JSONSerializer).requeue()

    post(f"queue/{QUEUE}/queued/empty")
    Mirror(redis_client, delivering(), 1000).tick()

    assert still_open() == mirror.shown(redis_client, "webhook") == [letter]


def test_a_failed_job_that_is_no_letter_is_deleted_with_the_others(
    die: Die, post: Post, redis_client: redis.Redis
) -> None:
    die()
    line = bell.queue(redis_client, "webhook")
    job = line.enqueue_call("workers.jobs.drain", args=("webhook",), job_id="foreign")
    registry = FailedJobRegistry(QUEUE, connection=redis_client, serializer=JSONSerializer)
    job.set_status(JobStatus.FAILED)
    registry.add(job, ttl=1000)

    assert post(f"queue/{QUEUE}/failed/empty").json["count"] == 1

    assert registry.get_job_ids(cleanup=False) == []


def test_a_queue_that_is_not_ours_is_not_requeued(instance: str, post: Post) -> None:
    answer = post("requeue/default")

    assert answer.status_code == 409
    assert "no queue of a sink" in message(answer)
