"""`GET /ws` of a real web process, with a real Redis behind it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from evoflask.dev.process import wait_for
from evoflask.outbox import Limits, NewEntry, verbs
from tests.gateway.clients import Client as Socket
from tests.gateway.conftest import MakeHouse, Tenant, make_tenant
from tests.system.house import API_KEY, House, message

WaitFor = Callable[..., Any]


def refused(socket: Socket) -> tuple[int, Any, Any]:
    """Status, headers and body of the answer to an upgrade."""
    with pytest.raises(InvalidStatus) as caught, socket:
        pass
    response = caught.value.response
    return response.status_code, response.headers, json.loads(response.body)


def feed_lines(house: House) -> int:
    return int(house.raw.xlen("evo:{p0}:feed"))


def worker_rss(house: House) -> int:
    """Bytes of the process that has the sockets, which is the only child of gunicorn's first."""
    pid = house.process("web").pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# -- joining and hearing ----------------------------------------------------------------------


def test_an_event_reaches_a_socket_that_joined_its_instance(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        joined = ws.join(tenant.name)
        tenant.emit(7, sender="5511", dateTime="2026-01-31T10:00:00")

        event = ws.event()

    assert (joined["type"], joined["instance"]) == ("joined", tenant.name)
    assert event["type"] == "evolution-event"
    assert event["data"] == message(7)
    assert (event["sender"], event["timestamp"]) == ("5511", "2026-01-31T10:00:00")
    assert (event["event"], event["instance"]) == ("MESSAGES_UPSERT", tenant.name)


def test_data_arrives_to_the_byte(tenant: Tenant) -> None:
    data = '{"b":1.0,  "a" : "\\u00e9é", "n": 123456789012345678901234567890}'
    body = b'{"event":"CALL","id":"my-id","data":%b}' % data.encode()
    headers = {"Content-Type": "application/json"}
    url = f"{tenant.client.base}/event/emit/{tenant.name}"
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.client.session.post(url, data=body, headers=headers, timeout=10)

        event = ws.event()

    assert event["id"] == "my-id"
    assert data.encode() in ws.raw


def test_a_body_beside_its_entry_and_an_empty_one_arrive(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.client.emit(tenant.name, data={"x": "y" * 200_000})
        tenant.client.emit(tenant.name, data={})

        assert ws.event()["data"] == {"x": "y" * 200_000}
        assert ws.event()["data"] == {}


def test_events_come_in_the_order_in_which_they_were_accepted(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        ws.join(tenant.name)
        for n in range(0, 300, 30):
            tenant.emit(*range(n, n + 30))

        assert ws.numbers(300) == list(range(300))


def test_one_socket_hears_several_instances_and_not_those_it_left(
    tenant: Tenant, other: Tenant
) -> None:
    with Socket(tenant.house) as ws:
        ws.join(tenant.name)
        ws.join(other.name)
        tenant.emit(1)
        assert ws.event()["instance"] == tenant.name
        other.emit(2)
        assert ws.event()["instance"] == other.name

        left = ws.leave(tenant.name)
        tenant.emit(3)
        other.emit(4)

        assert (left["type"], left["instance"]) == ("left", tenant.name)
        assert ws.event()["data"]["n"] == 4


def test_an_event_that_only_websockets_want_is_kept_and_leaves_with_retention(
    make_house: MakeHouse, wait_for: WaitFor
) -> None:
    house = make_house(clock=True, outbox_retain_seconds=1)
    tenant = make_tenant(house)
    (row,) = house.query("SELECT outbox FROM instance WHERE name = ?", tenant.name)
    key = f"evo:{{p0}}:outbox:{row[0]}"

    answer = tenant.client.emit(tenant.name, data=message(1)).json()

    assert answer["subscriptions"] == ["websocket"]
    assert house.raw.xlen(key) == 1
    wait_for(lambda: house.raw.xlen(key) == 0, 15)
    assert house.audit()[0] == 0


def test_what_no_websocket_subscription_wants_is_not_told(tenant: Tenant) -> None:
    client, name = tenant.client, tenant.name
    client.good("POST", f"/websocket/set/{name}", {"enabled": True, "events": ["CALL"]})
    with tenant.socket() as ws:
        ws.join(name)
        client.emit(name, "MESSAGES_UPSERT")
        client.emit(name, "CALL", data=message(1), integration=["webhook"])
        client.emit(name, "CALL", data=message(2), local=False)
        client.emit(name, "CALL", data=message(3), integration=["websocket", "nats"])

        assert ws.numbers(2) == [2, 3]
        client.good("POST", f"/websocket/set/{name}", {"enabled": False})
        assert client.emit(name, "CALL").json()["subscriptions"] == []
        ws.silent()


def test_an_event_that_was_requeued_is_not_told_again(make_house: MakeHouse) -> None:
    house = make_house(workers=1, clock=True, retry_schedule="0.1", breaker_threshold=1000)
    tenant = make_tenant(house)
    tenant.client.subscribe(tenant.name, "hook", "http://127.0.0.1:9/", retry=[])
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.emit(1)
        assert ws.numbers(1) == [1]
        letters: list[Any] = []
        end = time.monotonic() + 20
        while not letters and time.monotonic() < end:
            letters = house.query("SELECT id FROM dead_letter")

        answer = tenant.client.call("POST", f"/deadletter/{letters[0][0]}/requeue")
        tenant.emit(2)

        assert answer.ok, answer.text
        assert ws.numbers(1) == [2]
        ws.silent()


# -- all instances ----------------------------------------------------------------------------


def test_the_global_key_hears_all_instances(tenant: Tenant, other: Tenant) -> None:
    with Socket(tenant.house) as ws:
        assert ws.join("*")["type"] == "joined"
        tenant.emit(1)
        other.emit(2)

        heard = [ws.event(), ws.event()]

        assert [each["type"] for each in heard] == ["global-event"] * 2
        assert [each["instance"] for each in heard] == [tenant.name, other.name]
        ws.join(tenant.name, heard[0]["cursor"])  # its cursor resumes the instance
        tenant.emit(3)
        types = sorted(ws.event()["type"] for _ in range(2))
        assert types == ["evolution-event", "global-event"]
        assert ws.leave("*")["type"] == "left"
        tenant.emit(4)
        assert ws.event()["type"] == "evolution-event"
        ws.silent()


def test_a_token_may_not_join_all_instances(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        assert ws.join("*")["code"] == 401


# -- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["wrong", "", " ", "x" * 3000])
def test_a_wrong_key_is_refused_before_the_upgrade(house: House, key: str) -> None:
    status, _, body = refused(Socket(house, key))

    assert status == 401
    assert (body["status"], body["error"]) == (401, "Unauthorized")
    assert 'the header "apikey"' in body["response"]["message"][0]


def test_a_browser_names_its_key_in_the_query(tenant: Tenant) -> None:
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{tenant.house.port}/ws?apikey={tenant.token}"
    with connect(url) as ws:
        ws.send(json.dumps({"action": "join-instance", "instance": tenant.name}))
        assert json.loads(ws.recv(timeout=25))["type"] == "joined"


def test_a_client_gives_its_key_as_a_bearer(tenant: Tenant) -> None:
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{tenant.house.port}/ws"
    with connect(url, additional_headers={"Authorization": f"Bearer {tenant.token}"}) as ws:
        ws.send(json.dumps({"action": "join-instance", "instance": tenant.name}))
        assert json.loads(ws.recv(timeout=30))["type"] == "joined"


def test_a_token_opens_its_own_instance_only_and_learns_no_names(
    tenant: Tenant, other: Tenant
) -> None:
    with tenant.socket() as ws:
        faults = [ws.join(other.name), ws.join("there-is-none")]
        joined = ws.join(tenant.name)

    for fault in faults:
        assert (fault["type"], fault["code"]) == ("error", 401)
        assert fault["message"] == [
            "Unauthorized: the key of this socket is not valid for this instance."
        ]
    assert joined["type"] == "joined"


def test_the_global_key_is_told_that_there_is_no_such_instance(house: House) -> None:
    with Socket(house) as ws:
        fault = ws.join("there-is-none")

    assert (fault["code"], fault["instance"]) == (404, "there-is-none")


def test_a_deleted_instance_is_taken_from_its_sockets_within_seconds(
    tenant: Tenant, other: Tenant
) -> None:
    with tenant.socket() as own, Socket(tenant.house) as global_:
        own.join(tenant.name)
        global_.join(tenant.name)
        global_.join(other.name)
        began = time.monotonic()
        tenant.client.good("DELETE", f"/instance/delete/{tenant.name}")

        assert own.hear()["code"] == 401
        assert own.end()[0] == 4001
        assert global_.hear()["code"] == 404
        assert time.monotonic() - began < 5
        other.emit(5)
        assert global_.numbers(1) == [5]


def test_a_token_that_changed_in_the_database_alone_is_found_out(
    make_house: MakeHouse,
) -> None:
    house = make_house()
    tenant = make_tenant(house)
    with tenant.socket() as ws:
        ws.join(tenant.name)
        house.store.write("UPDATE instance SET token_sha256 = 'another'")

        assert ws.end(timeout=20)[0] == 4001


# -- bad words --------------------------------------------------------------------------------


def test_bad_frames_are_answered_and_the_socket_goes_on(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        for said in (b"\x00\xff", "{", "[]", '{"action":"fly"}', "x" * 4000):
            ws.ws.send(said)
            assert ws.hear()["code"] == 400
        assert ws.join(tenant.name)["type"] == "joined"


def test_joins_are_bounded_and_a_flood_of_them_ends_nothing(house: House) -> None:
    from evoflask.gateway.sessions import MAX_JOINS

    client = house.client()
    for n in range(MAX_JOINS + 1):
        client.create(f"many-{n}")
    with Socket(house) as ws:
        for n in range(MAX_JOINS):
            assert ws.join(f"many-{n}")["type"] == "joined"

        fault = ws.join(f"many-{MAX_JOINS}")

        assert (fault["type"], fault["code"]) == ("error", 400)
        assert ws.join("many-0")["type"] == "joined"  # again, which is no other
        for _ in range(10_000):
            ws.ws.send('{"action":"leave-instance","instance":"many-1"}')
        for _ in range(10_000):
            assert ws.hear()["type"] == "left"


def test_a_message_that_is_too_long_ends_its_socket_alone(tenant: Tenant) -> None:
    with tenant.socket() as ws, tenant.socket() as bystander:
        bystander.join(tenant.name)
        ws.ws.send("x" * 100_000)

        assert ws.end()[0] == 1009
        tenant.emit(1)
        assert bystander.numbers(1) == [1]


def test_a_message_in_ten_thousand_pieces_ends_its_socket(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        with contextlib.suppress(ConnectionClosed):
            ws.ws.send("x" for _ in range(10_000))

        assert ws.end()[0] == 1009
    assert tenant.client.call("GET", "/healthz").ok


def test_what_is_no_websocket_frame_ends_its_socket(tenant: Tenant) -> None:
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, os.urandom(5000)):
        with tenant.socket() as ws:
            ws.ws.socket.sendall(noise)
            assert ws.end()[0] in (1002, 1006, 1007, 1009)
    assert tenant.client.call("GET", "/healthz").ok


def test_a_socket_that_joins_again_and_again_goes_on(house: House) -> None:
    tenants = [make_tenant(house) for _ in range(3)]
    with Socket(house) as ws:
        for n in range(2_000):
            ws.say(action="join-instance", instance=tenants[n % 3].name if n % 10 else "none")
            if n % 100 == 99:
                for _ in range(100):
                    assert ws.hear()["type"] in ("joined", "error")
        tenants[0].emit(1)
        assert ws.numbers(1) == [1]
        ws.silent()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Sec-WebSocket-Key": ""}, 400),
        ({"Upgrade": ""}, 400),
    ],
)
def test_a_handshake_that_is_none_is_refused_in_words(
    house: House, headers: dict[str, str], status: int
) -> None:
    import requests

    usual = {
        "apikey": API_KEY,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    answer = requests.get(f"http://127.0.0.1:{house.port}/ws", headers=usual | headers, timeout=25)

    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert answer.json()["response"]["message"]


def test_origins_are_restricted_where_the_setting_says_so(make_house: MakeHouse) -> None:
    house = make_house(websocket_origins="https://good.example, http://localhost:3000")

    status, _, body = refused(Socket(house, origin="https://bad.example"))

    assert (status, body["status"]) == (403, 403)
    with Socket(house, origin="https://good.example"), Socket(house):
        pass


# -- resuming ---------------------------------------------------------------------------------


def test_a_client_that_comes_back_gets_what_it_missed_and_goes_on_live(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.emit(1, 2, 3)
        ws.numbers(2)
        cursor = ws.cursors[tenant.name]  # the third is not acknowledged
        ws.numbers(1)
    tenant.emit(*range(4, 200))

    with tenant.socket() as ws:
        assert ws.join(tenant.name, cursor)["cursor"] == cursor
        tenant.emit(200)

        assert ws.numbers(198) == list(range(3, 201))
        ws.silent()


def test_the_answer_to_a_join_resumes_too(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        cursor = ws.join(tenant.name)["cursor"]
    tenant.emit(1, 2)

    with tenant.socket() as ws:
        ws.join(tenant.name, cursor)
        assert ws.numbers(2) == [1, 2]


def test_what_is_not_retained_any_more_is_a_gap_that_is_counted(make_house: MakeHouse) -> None:
    house = make_house(outbox_retain_entries=10)
    tenant = make_tenant(house)
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.emit(0)
        ws.numbers(1)
        cursor = ws.cursors[tenant.name]
    for n in range(1, 101):
        tenant.emit(n)

    with tenant.socket() as ws:
        ws.join(tenant.name, cursor)
        gap = ws.hear()
        first = ws.event()["data"]["n"]
        rest = ws.numbers(100 - first)

    assert (gap["type"], gap["instance"], gap["after"]) == ("gap", tenant.name, cursor)
    assert gap["missed"] == first - 1 > 80
    assert rest == list(range(first + 1, 101))
    with tenant.socket() as ws:  # a gap's own cursor goes on behind it
        ws.join(tenant.name, gap["cursor"])
        assert ws.event()["data"]["n"] == first


def test_a_gap_without_anything_after_it_is_told_too(
    make_house: MakeHouse, wait_for: WaitFor
) -> None:
    house = make_house(outbox_retain_seconds=1, clock=True)
    tenant = make_tenant(house)
    with tenant.socket() as ws:
        cursor = ws.join(tenant.name)["cursor"]
    tenant.emit(1, 2, 3)
    (row,) = house.query("SELECT outbox FROM instance WHERE name = ?", tenant.name)
    wait_for(lambda: house.raw.xlen(f"evo:{{p0}}:outbox:{row[0]}") == 0, 15)

    with tenant.socket() as ws:
        ws.join(tenant.name, cursor)
        assert ws.hear()["missed"] == 3
        tenant.emit(4)
        assert ws.numbers(1) == [4]


def test_the_cursor_of_a_deleted_instance_of_the_same_name_is_a_gap(tenant: Tenant) -> None:
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.emit(1)
        ws.numbers(1)
        cursor = ws.cursors[tenant.name]
    tenant.client.good("DELETE", f"/instance/delete/{tenant.name}")
    tenant.client.create(tenant.name, websocket={"events": []}, token=tenant.token)
    tenant.emit(2, 3)

    with tenant.socket() as ws:
        ws.join(tenant.name, cursor)
        gap = ws.hear()

        assert (gap["type"], gap["missed"]) == ("gap", None)
        assert "made again" in gap["reason"]
        assert ws.numbers(2) == [2, 3]


def test_joining_while_events_come_in_misses_and_repeats_none(tenant: Tenant) -> None:
    from tests.system.house import Threads

    def emit() -> None:
        client = tenant.house.client()
        for n in range(600):
            client.emit(tenant.name, data=message(n))

    with tenant.socket() as ws:
        cursor = ws.join(tenant.name)["cursor"]
    threads = Threads([emit])
    got: list[int] = []
    while len(got) < 600:
        with tenant.socket() as ws:
            ws.join(tenant.name, cursor)
            got += ws.numbers(min(23, 600 - len(got)))
            cursor = ws.cursors[tenant.name]
    threads.join()

    assert got == list(range(600))


# -- places, and the end ----------------------------------------------------------------------


def test_beyond_the_places_a_socket_is_refused_and_requests_are_served(
    make_house: MakeHouse, wait_for: WaitFor
) -> None:
    house = make_house(websocket_max_clients=4, web_threads=2)
    sockets = [Socket(house).__enter__() for _ in range(4)]
    try:
        status, headers, body = refused(Socket(house))
        answers = [house.client().call("GET", "/healthz", timeout=5) for _ in range(5)]
    finally:
        for each in sockets:
            each.close()

    assert (status, body["status"]) == (503, 503)
    assert int(headers["Retry-After"]) > 0
    assert all(answer.ok for answer in answers)

    def admitted() -> bool:
        try:
            with Socket(house):
                return True
        except InvalidStatus:
            return False

    wait_for(admitted, 5)


def test_a_server_that_ends_says_so_within_seconds(make_house: MakeHouse) -> None:
    house = make_house()
    with Socket(house) as ws:
        ws.join("*")
        began = time.monotonic()
        house.process("web").send(15)

        assert ws.end() == (1012, "the server restarts")
        assert house.process("web").wait(8) == 0
        assert time.monotonic() - began < 8


def test_a_silent_client_is_pinged_and_then_closed(make_house: MakeHouse) -> None:
    house = make_house(websocket_ping_seconds=0.2, websocket_idle_seconds=1)
    with Socket(house) as good:
        with socket.create_connection(("127.0.0.1", house.port)) as raw:
            raw.settimeout(10)
            raw.sendall(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"apikey: " + API_KEY.encode() + b"\r\n\r\n"
            )
            heard = b""
            while data := raw.recv(4096):
                heard += data
        assert b"\x89\x00" in heard  # pings
        assert b"\x0f\xa9no answer" in heard  # 4009
        good.silent()  # it answers pings by itself, and is still there


def test_a_client_that_does_not_read_is_cut_with_a_reason_and_resumes(
    make_house: MakeHouse,
) -> None:
    house = make_house(websocket_stall_seconds=1, websocket_queue_bytes=65536)
    tenant = make_tenant(house)
    # The client library reads ahead by itself; it stops when so many messages are unread.
    with tenant.socket(max_queue=2) as slow, tenant.socket() as quick:
        slow.join(tenant.name)
        quick.join(tenant.name)
        for n in range(150):
            tenant.client.emit(tenant.name, data=message(n, x="y" * 60_000))
            assert quick.event()["data"]["n"] == n
        before = worker_rss(house)
        time.sleep(1.5)  # what is tested is that time passes without a byte being taken

        code, reason = slow.end(timeout=5)

    assert code == 4008
    assert "resume" in reason
    assert worker_rss(house) < before + 20_000_000
    with tenant.socket() as again:
        again.join(tenant.name, slow.cursors[tenant.name])
        first = again.event()["data"]["n"]
        assert again.numbers(149 - first) == list(range(first + 1, 150))


def join_and_read_nothing(house: House, tenant: Tenant, after: str) -> socket.socket:
    """A connection by hand, whose receiver takes a few kilobytes at most."""
    made = socket.create_connection(("127.0.0.1", house.port), timeout=60)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    join = json.dumps({"action": "join-instance", "instance": tenant.name, "after": after})
    join = join.ljust(200)  # the form of the frame's length is for 126 bytes and more
    length = len(join).to_bytes(2, "big")
    frame = b"\x81\xfe" + length + bytes(4) + join.encode()  # masked with zeros
    made.sendall(
        f"GET /ws HTTP/1.1\r\nHost: a\r\napikey: {tenant.token}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    assert made.recv(12) == b"HTTP/1.1 101"
    made.sendall(frame)
    heard = b""
    while b'"joined"' not in heard:
        piece = made.recv(512)
        assert piece, heard
        heard += piece
    return made


def test_replays_of_large_events_that_are_not_read_hold_a_bound_of_bytes_and_no_other_tenant(
    make_house: MakeHouse,
) -> None:
    house = make_house(
        websocket_max_clients=120,
        websocket_max_per_token=120,
        websocket_stall_seconds=300,
        websocket_idle_seconds=300,
        web_read_bytes=32_000_000,
    )
    greedy, other = make_tenant(house), make_tenant(house)
    starts = {}
    for tenant in (greedy, other):
        with tenant.socket() as first:
            starts[tenant.name] = first.join(tenant.name)["cursor"]
        for n in range(4):
            tenant.client.emit(tenant.name, data=message(n, x="y" * 2_000_000))
    before = worker_rss(house)

    with contextlib.ExitStack() as stack:
        for _ in range(100):
            made = join_and_read_nothing(house, greedy, starts[greedy.name])
            stack.enter_context(made)
        with other.socket() as reader:
            reader.join(other.name, starts[other.name])
            heard = [reader.event(60)["data"]["n"] for _ in range(4)]
        grown = worker_rss(house) - before

    print(f"100 unread replays of 8 MB: {grown >> 20} MB more")
    assert heard == [0, 1, 2, 3]
    assert grown < 200_000_000
    with greedy.socket() as reader:
        reader.join(greedy.name, starts[greedy.name])
        assert [reader.event(60)["data"]["n"] for _ in range(4)] == [0, 1, 2, 3]


# -- the feed ---------------------------------------------------------------------------------


def test_lines_that_were_missed_are_noticed_and_cost_no_event(
    make_house: MakeHouse, wait_for: WaitFor
) -> None:
    house = make_house(web=1)
    tenant, mute = make_tenant(house), make_tenant(house)
    with tenant.socket() as ws, Socket(house) as everybody:
        ws.join(tenant.name)
        everybody.join("*")
        everybody.join(mute.name)
        tenant.emit(1)
        assert ws.numbers(1) == everybody.numbers(1) == [1]
        (row,) = house.query("SELECT outbox FROM instance WHERE name = ?", tenant.name)
        fields = house.raw.xrevrange("evo:{p0}:feed", count=1)[0][1]

        # As a capped feed that went on without the reader: lines are gone.
        house.raw.incrby("evo:{p0}:fed", 500)
        tenant.emit(2)
        tenant.emit(3)

        assert fields[b"i"].decode() == row[0]
        assert ws.numbers(2) == [2, 3]
        heard = [everybody.hear() for _ in range(3)]
        assert [each["type"] for each in heard] == ["gap", "global-event", "global-event"]
        assert heard[0]["instance"] == "*"


def test_a_process_that_stood_still_while_the_feed_went_on_loses_nothing(
    make_house: MakeHouse,
) -> None:
    house = make_house(outbox_retain_entries=2000)
    tenant = make_tenant(house)
    (row,) = house.query(
        "SELECT partition, outbox, revision, (SELECT value FROM meta WHERE key = 'epoch')"
        " FROM instance WHERE name = ?",
        tenant.name,
    )
    limits = Limits(feed_lines=20, retain_entries=2000)
    with tenant.socket() as ws, Socket(house) as everybody:
        ws.join(tenant.name)
        everybody.join("*")
        tenant.emit(0)
        assert ws.numbers(1) == everybody.numbers(1) == [0]
        house.process("web").send_group(signal.SIGSTOP)
        try:
            for n in range(1, 501):
                data = json.dumps(message(n)).encode()
                new = NewEntry(f"id-{n}", False, "CALL", b"{}", data, (), ws=True)
                call = verbs.append(*row, [new], limits, name=tenant.name)
                assert house.outbox.run(call).status == "ok"
        finally:
            house.process("web").send_group(signal.SIGCONT)

        assert ws.numbers(500) == list(range(1, 501))
        heard = everybody.hear()
        if heard["type"] == "global-event":  # the read that was waiting was answered by the first
            assert heard["data"]["n"] == 1
            heard = everybody.hear()
        assert (heard["type"], heard["instance"]) == ("gap", "*")


def test_an_emptied_redis_is_noticed(make_house: MakeHouse, wait_for: WaitFor) -> None:
    house = make_house(clock=True)
    tenant = make_tenant(house)
    with tenant.socket() as ws:
        ws.join(tenant.name)
        tenant.emit(1)
        ws.numbers(1)
        cursor = ws.cursors[tenant.name]
        house.raw.flushall()
        tenant.client.insist(f"/event/emit/{tenant.name}", {"event": "CALL", "data": message(2)})

        heard = ws.hear()
        assert (heard["type"], heard["missed"]) == ("gap", None)
        assert ws.numbers(1) == [2]
    with tenant.socket() as ws:
        ws.join(tenant.name, cursor)
        assert ws.hear()["type"] == "gap"


def test_sockets_last_through_a_redis_that_is_away(make_house: MakeHouse) -> None:
    house = make_house()
    tenant = make_tenant(house)
    with tenant.socket() as ws, Socket(house) as everybody:
        ws.join(tenant.name)
        everybody.join("*")
        tenant.emit(1)
        assert ws.numbers(1) == everybody.numbers(1) == [1]

        house.redis.kill9()
        fault = everybody.join(tenant.name)
        house.redis.start()
        tenant.client.insist(f"/event/emit/{tenant.name}", {"event": "CALL", "data": message(2)})

        assert fault["code"] == 503
        assert ws.numbers(1) == [2]
        heard = everybody.hear()
        while heard["type"] == "gap":  # it may be told one: nobody knows what it missed
            heard = everybody.hear()
        assert heard["data"]["n"] == 2


def test_nobody_reads_the_feed_before_the_first_socket(make_house: MakeHouse) -> None:
    house = make_house()
    tenant = make_tenant(house)
    tenant.emit(1)

    assert not [c for c in house.raw.client_list() if c["name"] == "evoflask-feed"]
    assert feed_lines(house) >= 1


def test_five_hundred_sockets_hold_one_blocking_read(
    make_house: MakeHouse, wait_for: WaitFor
) -> None:
    house = make_house(websocket_max_clients=500, websocket_max_per_token=500)
    tenant = make_tenant(house)
    before = worker_rss(house)
    sockets = [tenant.socket().__enter__() for _ in range(500)]
    try:
        for each in sockets:
            each.join(tenant.name)
        named = [c for c in house.raw.client_list() if c["name"].startswith("evoflask-")]
        blocked = house.raw.info("clients")["blocked_clients"]
        print(f"500 sockets: {(worker_rss(house) - before) / 500 / 1024:.0f} kB each")
        tenant.emit(1)
        assert all(each.numbers(1) == [1] for each in sockets)
    finally:
        for each in sockets:
            each.close()

    assert blocked <= 1
    assert [c["name"] for c in named].count("evoflask-feed") == 1
    assert len(named) <= 1 + 8


def test_a_token_opens_so_many_sockets_and_no_more_and_others_their_own(
    make_house: MakeHouse,
) -> None:
    house = make_house(workers=0, clock=False, websocket_max_clients=6, websocket_max_per_token=2)
    client = house.client()
    for name in ("a", "b"):
        client.create(name, token=f"token-{name}")

    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(Socket(house, "token-a")) for _ in range(2)]
        with pytest.raises(InvalidStatus) as refused, Socket(house, "token-a"):
            pass
        stack.enter_context(Socket(house, "token-b"))
        for _ in range(3):
            stack.enter_context(Socket(house))
        first[0].close()
        wait_for(lambda: opens(house, "token-a"), 10, "the place to be free again")

    assert refused.value.response.status_code == 429
    assert refused.value.response.headers["Retry-After"] == "5"


def test_a_right_token_opens_a_socket_after_sixty_wrong_ones_from_its_address(
    make_house: MakeHouse,
) -> None:
    """No request with the token came before, so the web process has not seen it."""
    house = make_house(workers=0, clock=False, auth_failures_per_minute=30)
    house.client().create("a", token="token-a")

    wrong = [refused(Socket(house, f"wrong-{n}"))[0] for n in range(60)]

    assert wrong == [401] * 30 + [429] * 30
    assert opens(house, "token-a")
    assert opens(house, API_KEY)


def opens(house: House, key: str) -> bool:
    """Whether one more socket may be opened with it."""
    try:
        with Socket(house, key):
            return True
    except InvalidStatus:
        return False
