"""Redis behind a password and an ACL, by TLS and by a Unix socket: the whole story over each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import requests

from evoflask import redislink
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer
from tests.certificates import self_signed
from tests.gateway.clients import Client as Socket
from tests.system.conftest import MakeHouse
from tests.system.house import API_KEY, Client, House, message
from tests.system.sentinels import TlsRedis

PASSWORD = "p@ss/of:the?user"
ADMIN = "an-admins-password"
RULE = re.compile(r"^    user evoflask (.+)$", re.MULTILINE)


class LockedRedis(RedisServer):
    """With the user that the manual describes, an admin, and nobody else."""

    def __init__(self, data: Path, rule: str, *, socket: Path | None = None) -> None:
        data.mkdir(parents=True)
        users = data / "users.acl"
        users.write_text(
            f"user default off\nuser admin on >{ADMIN} ~* &* +@all\n"
            f"user evoflask {rule.replace('PASSWORD', PASSWORD)}\n"
        )
        options = ["--aclfile", str(users), "--acllog-max-len", "1000"]
        super().__init__(data, socket=socket, appendonly=True, options=options)

    @property
    def url(self) -> str:
        login = f"evoflask:{quote(PASSWORD, safe='')}@"
        return super().url.replace("://", f"://{login}", 1)

    def admin(self) -> redis.Redis:
        """A client that may everything."""
        if self.socket:
            return redis.Redis(unix_socket_path=str(self.socket), username="admin", password=ADMIN)
        return redis.Redis(port=self.port, username="admin", password=ADMIN)


@pytest.fixture
def rule(root: Path) -> str:
    """The ACL rule, as the manual has it."""
    [found] = RULE.findall((root / "docs" / "operations.md").read_text())
    return str(found)


def story(house: House, receiver: Receiver) -> None:
    """What a house does in its life: every process and every page that asks Redis."""
    client = house.client()
    made = client.create("a", websocket={"events": []})
    client.subscribe("a", "good", receiver.url("/good"))
    client.subscribe("a", "bad", receiver.url("/status/410"))
    with Socket(house, made["hash"]) as ws:
        ws.join("a")
        for n in range(10):
            assert client.emit("a", id=f"e{n}", data=message(n)).status_code == 202
        client.emit("a", id="large", data={"text": "x" * 200_000})
        assert ws.event()["data"] == message(0)
    wait_for(lambda: len({one.id for one in receiver.received() if one.path == "/good"}) == 11, 30)
    wait_for(lambda: client.good("GET", "/deadletter?instance=a")["total"] == 11, 30)
    trial(client)
    for action in ("pause", "resume"):
        client.good("POST", f"/lane/a/bad/{action}")
    client.change("a", "bad", url=receiver.url("/mended"))
    client.good("POST", "/deadletter/requeue", {"instance": "a"})
    wait_for(lambda: sum(one.path == "/mended" for one in receiver.received()) == 11, 30)
    client.good("POST", "/replay", {"instance": "a", "ids": ["e1"], "onto": "good"})
    wait_for(lambda: sum(one.id == "e1" for one in receiver.received()) >= 3, 30)
    for path in ("/event/a/e1", "/lane", "/attempt", "/audit-log", "/operation", "/metrics"):
        answer = client.call("GET", path)
        assert answer.status_code == 200, (path, answer.text)
    for path in ("/rq/", "/rq/0/view/queues", "/rq/0/data/queues.json", "/rq/0/view/workers"):
        answer = requests.get(house_url(house, path), headers={"apikey": API_KEY}, timeout=10)
        assert answer.status_code == 200, (path, answer.text)
    client.good("POST", "/instance/rotateToken/a")
    client.good("DELETE", "/subscription/a/bad")
    assert client.call("GET", "/readyz").status_code == 200
    assert house.flask("doctor")[0] == 0
    house.wait_quiet()
    assert house.audit()[0] == 0
    client.good("DELETE", "/instance/delete/a")


def trial(client: Client) -> None:
    answer = client.call("POST", "/subscription/a/good/test", timeout=40)
    assert answer.status_code == 200, answer.text


def house_url(house: House, path: str) -> str:
    return f"http://127.0.0.1:{house.port}{path}"


@pytest.fixture
def locked(tmp_path: Path, rule: str) -> Iterator[LockedRedis]:
    server = LockedRedis(tmp_path / "locked", rule)
    yield server
    server.kill9()


def test_the_manuals_acl_user_may_all_that_is_needed_and_no_more(
    make_house: MakeHouse, receiver: Receiver, locked: LockedRedis
) -> None:
    house = make_house(redis_server=locked)

    story(house, receiver)

    with locked.admin() as admin:
        refused = [(each["reason"], each["object"], each["context"]) for each in admin.acl_log()]
        used = admin.info("commandstats")
        print(sorted(used))
        admin.set("somebody-elses", "secret")
    assert refused == []
    with locked.client() as link:
        for command in (
            ("FLUSHALL",),
            ("CONFIG", "SET", "maxmemory", "1"),
            ("GET", "somebody-elses"),
            ("KEYS", "*"),
            ("EVAL", "return redis.call('GET', KEYS[1])", "1", "somebody-elses"),
            ("SHUTDOWN",),
            ("ACL", "LIST"),
            ("REPLICAOF", "127.0.0.1", "1"),
            ("PUBLISH", "somebody-elses", "x"),
            ("MIGRATE", "127.0.0.1", "1", "evo:x", "0", "1"),
            ("CLIENT", "KILL", "TYPE", "normal"),
        ):
            with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)no.* permission"):
                link.execute_command(*command)


def test_a_wrong_password_is_told_in_words_without_it(
    make_house: MakeHouse, locked: LockedRedis
) -> None:
    house = make_house(redis_server=locked, workers=0, clock=False)
    client = house.client()
    client.create("a")
    with locked.admin() as admin:
        admin.execute_command("ACL", "SETUSER", "evoflask", "resetpass", ">another")
        admin.client_kill_filter(user="evoflask")

    answer = client.emit("a", data=message(0))

    assert answer.status_code == 503
    assert PASSWORD not in answer.text + house.output("web")
    assert quote(PASSWORD, safe="") not in answer.text + house.output("web")


def test_redis_by_tls_with_a_private_certificate(
    make_house: MakeHouse, receiver: Receiver, tmp_path: Path
) -> None:
    certificate = self_signed(tmp_path)
    with TlsRedis(tmp_path / "tls", certificate) as server:
        house = make_house(redis_server=server)

        story(house, receiver)

        # Who does not vouch for it speaks to nobody.
        stranger = f"rediss://127.0.0.1:{server.port}/0"
        with (
            redislink.connect(stranger, timeout=5, connect_timeout=5, connections=1) as client,
            pytest.raises(redis.ConnectionError, match=r"(?i)certificate"),
        ):
            client.ping()


def test_redis_by_a_unix_socket_with_a_password(
    make_house: MakeHouse, receiver: Receiver, tmp_path: Path, rule: str
) -> None:
    socket = tmp_path / "s" / "r.sock"
    server = LockedRedis(tmp_path / "locked", rule, socket=socket)

    house = make_house(redis_server=server)

    story(house, receiver)
