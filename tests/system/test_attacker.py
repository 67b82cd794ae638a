"""Two tenants, and one of them means ill: whatever it tries, the other one's things stay what
they are, and it sees nothing of them.

Each try is a request of the attacker's. That none works because it is misspelt is shown by the
victim, who then makes the same one with its own token and succeeds.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.gateway.clients import Client as Socket
from tests.system.conftest import MakeHouse
from tests.system.house import House

MINE, THEIRS = "token-of-the-attacker", "token-of-the-victim"
EYES = "read-only-key-0123456789"
MARK = b"only-the-victim-has-this"
"""Stands in all that the victim has, and may be in no answer to the attacker."""


@dataclass(frozen=True)
class Try:
    """`same`: the victim's own request of the same words works. `key`: whose; None: none."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = MINE
    same: bool = True

    def __str__(self) -> str:
        what = f"{self.method} {self.path} {json.dumps(self.body) if self.body else ''}"
        who = {MINE: "", None: "without a key"}.get(self.key, "with another key")
        return " ".join(filter(None, [what.strip(), str(dict(self.headers) or ""), who]))


@dataclass
class Scene:
    """What there is to be had."""

    house: House
    letter: int
    event: str
    trial: str
    operation: int
    outbox: str


def ask(house: House, each: Try, key: str | None) -> tuple[int, bytes]:
    """As it stands: no library that tidies the path."""
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=40)
    headers = dict(each.headers)
    if key is not None:
        headers["apikey"] = key
    body = None
    if each.body is not None:
        body, headers["Content-Type"] = json.dumps(each.body), "application/json"
    connection.request(each.method, each.path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.fixture
def scene(make_house: MakeHouse, receiver: Receiver) -> Scene:
    """A victim with everything, and an attacker with an instance of its own."""
    house = make_house(
        workers=1, retry_schedule="0.1", api_keys_read_only=f"eyes:{EYES}", breaker_threshold=1_000
    )
    client = house.client()
    mark = MARK.decode()
    for name, token in (("victim", THEIRS), ("attacker", MINE)):
        client.create(name, token=token, number=f"49{len(name)}")
        client.subscribe(name, "crm", receiver.url(f"/status/400?{name}"))
        client.subscribe(name, "slow", receiver.url(f"/ok?{name}"))
    client.change("victim", "crm", url=receiver.url(f"/status/400?{mark}"))
    client.good("POST", "/websocket/set/victim", {"websocket": {"enabled": True}})
    client.good("POST", "/websocket/set/attacker", {"websocket": {"enabled": True}})
    event = client.emit("victim", data={"mark": mark}, id=f"e-{mark}").json()["id"]
    house.wait_quiet()
    (letter,) = client.good("GET", "/deadletter?instance=victim")["letters"]
    tested = client.call("POST", "/subscription/victim/slow/test", {}).json()
    replay = {"instance": "victim", "onto": "slow", "ids": [event], "rate": 0.1}
    begun = client.good("POST", "/replay", replay)
    house.wait_quiet()
    (row,) = [each for each in client.good("GET", "/instance/fetchInstances")
              if each["name"] == "victim"]  # fmt: skip
    operation = begun["operation"] or _operation(house)
    return Scene(house, letter["id"], event, tested["id"], operation, row["id"])


def _operation(house: House) -> int:
    """A long one: letters that are requeued at a slow rate."""
    body = {"instance": "victim", "onto": "slow", "since": 0, "rate": 0.1}
    found = house.client().good("POST", "/replay", body)
    return int(found["operation"] or 0)


def state(scene: Scene) -> dict[str, Any]:
    """All that the victim can see of itself, but for clocks."""
    client = scene.house.client()
    lanes = client.good("GET", "/lane?instance=victim")["lanes"]
    return {
        "subscriptions": client.good("GET", "/subscription/victim"),
        "sinks": client.good("GET", "/event/find/victim"),
        "letters": client.good("GET", "/deadletter?instance=victim"),
        "lanes": [(each["subscription"], each["state"], each["backlog"]) for each in lanes],
        "log": client.good("GET", "/audit-log?instance=victim"),
        "event": client.good("GET", f"/event/victim/{scene.event}"),
        "token": ask(scene.house, Try("GET", "/webhook/find/victim"), THEIRS)[0],
    }


def settled(scene: Scene) -> dict[str, Any]:
    """The same, once what the scene began has come to its end: its replay sends its one event
    after ten seconds, which the victim sees in that event's story."""
    client = scene.house.client()
    replay = f"/operation/{scene.operation}"
    wait_for(lambda: client.good("GET", replay)["state"] == "done", 60, "the scene's replay")
    seen = [state(scene)]

    def twice() -> bool:
        seen.append(state(scene))
        return len(seen) > 4 and seen[-1] == seen[-2] == seen[-3] == seen[-4]

    wait_for(twice, 30, "the scene to come to rest", 0.5)
    return seen[-1]


LISTS = ("/attempt", "/deadletter?", "/deadletter/requeue", "/deadletter/discard", "/audit-log",
         "/operation?", "/lane?", "/instance/fetchInstances?number")  # fmt: skip


def tries(scene: Scene) -> list[Try]:
    s, letter, operation = scene, f"/deadletter/{scene.letter}", f"/operation/{scene.operation}"
    crm, hook = "/subscription/victim/crm", {"enabled": True, "url": "https://example.com/evil"}
    named = {"name": "evil", "sink": "webhook", **hook}
    emit = {"event": "CALL", "data": {}}
    digest = hashlib.sha256(THEIRS.encode()).hexdigest()
    find = "/webhook/find/victim"
    return [
        # -- to look
        Try("GET", find),
        Try("GET", "/event/find/victim"),
        Try("GET", "/subscription/victim"),
        Try("GET", crm),
        Try("GET", f"/event/victim/{s.event}"),
        Try("GET", f"/event/attacker/{s.event}", same=False),
        Try("GET", "/attempt?instance=victim"),
        Try("GET", f"/attempt?eventId={s.event}", same=False),
        Try("GET", "/deadletter?instance=victim"),
        Try("GET", letter),
        Try("GET", "/lane?instance=victim"),
        Try("GET", "/audit-log?instance=victim"),
        Try("GET", "/operation?instance=victim", same=False),
        Try("GET", operation),
        Try("GET", f"/subscription/victim/slow/test/{s.trial}", same=False),
        Try("GET", f"/subscription/attacker/slow/test/{s.trial}", same=False),
        Try("GET", "/instance/connectionState/victim"),
        Try("GET", "/instance/fetchInstances?instanceName=victim"),
        Try("GET", f"/instance/fetchInstances?instanceId={s.outbox}"),
        Try("GET", "/instance/fetchInstances?number=496"),
        Try("GET", "/metrics", same=False),
        Try("GET", "/rq/", same=False),
        Try("GET", "/rq/0/data/jobs/webhook/failed/50/asc/1.json", same=False),
        Try("GET", f"/rq/0/data/job/dl-{s.letter}.json", same=False),
        # -- to say whose it is elsewhere than in the path
        Try("GET", "/webhook/find/attacker?instanceName=victim", same=False),
        Try("GET", "/webhook/find/attacker", headers={"instanceName": "victim"}, same=False),
        Try("GET", "/subscription/attacker/crm?instance=victim", same=False),
        Try("GET", "/lane?instance=attacker&instance=victim", same=False),
        Try("GET", "/deadletter?instance=attacker&instance=victim", same=False),
        Try("POST", "/webhook/set/attacker?instanceName=victim", {"webhook": hook}, same=False),
        Try("POST", "/webhook/set/attacker", {"instanceName": "victim", "webhook": hook},
            same=False),
        Try("POST", "/event/emit/attacker?instanceName=victim", {**emit, "instance": "victim"},
            same=False),
        Try("GET", crm, headers={"X-HTTP-Method-Override": "DELETE"}),
        Try("POST", crm, {}, headers={"X-HTTP-Method-Override": "DELETE"}, same=False),
        Try("GET", find, headers={"X-Original-URL": "/webhook/find/attacker"}),
        Try("GET", "/webhook/find/attacker", headers={"X-Rewrite-URL": find}, same=False),
        # -- to spell it another way
        Try("GET", "/webhook/find/attacker/../victim", same=False),
        Try("GET", "/webhook/find/attacker%2F..%2Fvictim", same=False),
        Try("GET", "/webhook/find/attacker%2f%2e%2e%2fvictim", same=False),
        Try("GET", "/webhook/find/./victim", same=False),
        Try("GET", "//webhook/find/victim", same=False),
        Try("GET", "/webhook/find/victim/", same=False),
        Try("GET", "/webhook/find/%76ictim"),
        Try("GET", "/webhook/find/VICTIM", same=False),
        Try("GET", "/webhook/find/victim%00", same=False),
        Try("GET", "/webhook/find/victim%20", same=False),
        Try("GET", "/webhook/find/" + quote("v\u0456ctim"), same=False),  # a Cyrillic letter
        Try("GET", "/webhook/find/" + quote("\uff56ictim"), same=False),  # full width
        Try("GET", "/webhook/find/victim;attacker", same=False),
        Try("GET", "/webhook/find/%25", same=False),
        Try("GET", "/event/victim//../attacker/x", same=False),
        # -- with other keys
        Try("GET", find, key=None),
        Try("GET", find, key=""),
        Try("GET", find, key="victim"),
        Try("GET", find, key=digest),
        Try("GET", find, key=THEIRS.upper()),
        Try("GET", find, key=f"{MINE},{THEIRS}"),
        Try("GET", f"{find}?apikey={THEIRS}", key=None, same=False),
        Try("GET", find, key=None, headers={"Authorization": f"Bearer {MINE}"}),
        Try("GET", find, headers={"Authorization": f"Bearer {THEIRS}"}),  # apikey alone counts
        Try("GET", find, key=None, headers={"Authorization": f"Basic {THEIRS}"}),
        Try("GET", find, key=None, headers={"Authorization": f"Bearer {MINE} {THEIRS}"}),
        Try("GET", "/rq/", key=None, same=False,
            headers={"Cookie": f"evoflask_rq=9999999999.{'0' * 16}.global.{'0' * 64}"}),
        Try("GET", "/rq/0/data/queues.json", key=None, same=False,
            headers={"Cookie": f"evoflask_rq=9999999999.{'0' * 16}.eyes.{digest}"}),
        # -- to change
        Try("POST", "/webhook/set/victim", {"webhook": hook}),
        Try("POST", "/event/set/victim", {"webhook": hook}),
        Try("POST", "/subscription/victim", named),
        Try("PUT", crm, hook),
        Try("POST", "/event/emit/victim", emit),
        Try("POST", "/event/emit/victim", [emit]),
        Try("POST", "/subscription/victim/slow/test", {}),
        Try("POST", "/lane/victim/crm/pause", {}),
        Try("POST", "/lane/victim/crm/resume", {}),
        Try("POST", "/lane/victim/crm/probe", {}, same=False),
        Try("POST", "/lane/victim/crm/skip", {}, same=False),
        Try("POST", "/lane/victim/crm/purge", {"confirm": 0}, same=False),
        Try("POST", f"{letter}/requeue", {"onto": "slow"}, same=False),
        Try("POST", f"{letter}/requeue", {"onto": "victim/crm"}, same=False),
        Try("POST", "/deadletter/requeue", {"instance": "victim"}, same=False),
        Try("POST", "/deadletter/requeue", {"sink": "webhook"}, same=False),
        Try("POST", "/deadletter/discard", {"instance": "victim"}, same=False),
        Try("POST", "/deadletter/discard", {"sink": "webhook"}, same=False),
        Try("POST", "/replay", {"instance": "victim", "onto": "slow", "ids": [s.event]}),
        Try("POST", "/replay", {"instance": "attacker", "onto": "slow", "ids": [s.event]},
            same=False),
        Try("POST", "/replay", {"instance": "victim", "onto": "slow", "since": 0, "dryRun": True}),
        Try("POST", f"{operation}/cancel", {}, same=False),
        Try("DELETE", letter, same=False),
        Try("DELETE", "/instance/logout/victim"),
        Try("POST", "/instance/create", {"instanceName": "third"}, same=False),
        Try("POST", "/instance/rotateToken/victim", {"token": MINE}, same=False),
        Try("DELETE", crm),
        Try("DELETE", "/instance/delete/victim"),
        # -- and with a key that may only look
        Try("PUT", crm, hook, key=EYES, same=False),
        Try("POST", "/event/emit/victim", emit, key=EYES, same=False),
        Try("POST", f"{letter}/requeue", {}, key=EYES, same=False),
        Try("DELETE", "/instance/delete/victim", key=EYES, same=False),
        Try("POST", "/instance/create", {"instanceName": "third"}, key=EYES, same=False),
    ]  # fmt: skip


def test_nothing_that_a_tenant_tries_reaches_another_one(scene: Scene, receiver: Receiver) -> None:
    before = settled(scene)
    wrong = []
    made = tries(scene)
    for each in made:
        status, said = ask(scene.house, each, each.key)
        # Its own things, which it may have, and lists, of which it sees its own part: none.
        mine = "attacker" in each.path or "attacker" in str(each.body)
        mine = mine or (each.path.startswith(LISTS) and b"victim" not in said.replace(MARK, b""))
        fine = 400 <= status < 500 or status == 303 or (mine and status < 300)
        if not fine or MARK in said.replace(scene.event.encode(), b""):
            wrong.append(f"{each}: {status} {said[:200]!r}")
        if (now := state(scene)) != before:
            changed = [name for name in now if now[name] != before[name]]
            wrong.append(f"{each}: {status}, and something changed: {', '.join(changed)}")
            before = now

    assert wrong == [], "\n".join(wrong)
    assert scene.house.query("SELECT name FROM instance ORDER BY name") == [
        ("attacker",),
        ("victim",),
    ]
    counts = receiver.counts()["paths"]
    print(f"{len(made)} tries, none of which worked; {counts}")
    assert len(made) >= 40
    # And it was not for a slip of the pen that they did not.
    for each in made:
        if each.same:
            status, said = ask(scene.house, each, THEIRS)
            assert 200 <= status < 300, f"{each}, by the victim: {status} {said!r}"


def test_a_socket_hears_nobody_else(scene: Scene) -> None:
    house = scene.house
    with Socket(house, THEIRS) as own, Socket(house, MINE) as socket:
        joined = own.join("victim")
        house.client().emit("victim", data={"mark": MARK.decode()})
        cursor = own.event()["cursor"]
        refused = [
            socket.join("victim"),
            socket.join("victim", after=cursor),
            socket.join("*"),
            socket.join("nobody"),
        ]
        taken = [socket.join("attacker", after=cursor), socket.hear()]
        house.client().emit("victim", data={"mark": MARK.decode()})
        heard = own.event()

        socket.silent()

    assert joined["type"] != "error"
    assert heard["data"] == {"mark": MARK.decode()}
    assert {(each["type"], each.get("code") or each.get("status")) for each in refused[:2]} == {
        ("error", 401)
    }
    assert refused[0] | {"instance": ""} == refused[3] | {"instance": ""}
    assert MARK.decode() not in json.dumps([refused, taken])
    assert taken[1]["type"] == "gap"
    for key in ("", "wrong", hashlib.sha256(THEIRS.encode()).hexdigest()):
        with pytest.raises(Exception, match="401"), Socket(house, key):
            pass


@pytest.mark.parametrize("how", ["rotate", "delete"])
def test_a_token_that_ended_opens_nothing_and_its_socket_is_hung_up(scene: Scene, how: str) -> None:
    """Also when the name was given to somebody else since."""
    house, client = scene.house, scene.house.client()
    with Socket(house, THEIRS) as socket:
        socket.join("victim")
        if how == "rotate":
            client.good("POST", "/instance/rotateToken/victim", {"token": "token-of-today"})
        else:
            client.good("DELETE", "/instance/delete/victim")
            client.create("victim", token="token-of-today")
            client.good("POST", "/websocket/set/victim", {"websocket": {"enabled": True}})
        code, _ = socket.end()

    assert code == 4001
    for each in (
        Try("GET", "/webhook/find/victim"),
        Try("GET", "/instance/fetchInstances"),
        Try("GET", "/lane"),
        Try("GET", f"/event/victim/{scene.event}"),
        Try("POST", "/event/emit/victim", {"event": "CALL", "data": {}}),
        Try("POST", "/instance/rotateToken/victim", {"token": "token-of-today"}),
    ):
        assert ask(house, each, THEIRS)[0] == 401, each
        if how == "rotate":
            assert ask(house, each, "token-of-today")[0] < 300, each
    if how == "delete":
        status, said = ask(house, Try("GET", f"/event/victim/{scene.event}"), "token-of-today")
        assert status == 404
        assert MARK not in said.replace(scene.event.encode(), b"")
        assert client.good("GET", "/deadletter")["letters"] == []
    with pytest.raises(Exception, match="401"), Socket(house, THEIRS):
        pass
    wait_for(lambda: not house.off(), 10, "the books to balance")
