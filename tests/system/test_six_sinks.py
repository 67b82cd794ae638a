"""One emit, six real destinations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest

from evoflask.dev.process import free_port, wait_for
from tests.system.six_servers import SIX, Six, six

LANES = [sink for sink in SIX if sink != "websocket"]
INSTANCES = ("well", "ill", "control")
ROUNDS = 40


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Six]:
    schedule = "0.2,0.5" + ",1" * 40
    with six(tmp_path_factory.mktemp("six"), INSTANCES, retry_schedule=schedule) as found:
        yield found


def emit(everything: Six, instance: str, event: str = "CALL") -> str:
    answer = everything.client().emit(instance, event)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def latencies(everything: Six, sent: dict[str, float]) -> dict[str, list[float]]:
    """Seconds from the emit to each sink, of events by their ids."""
    found: dict[str, list[float]] = {sink: [] for sink in SIX}
    for each in everything.arrivals():
        if each.id in sent:
            found[each.sink].append(each.at - sent[each.id])
    return found


@pytest.mark.timeout(180)
def test_one_emit_arrives_at_all_six_with_its_id(everything: Six) -> None:
    answer = everything.client().emit("well", "MESSAGES_UPSERT", data={"key": {"remoteJid": "1@s"}})

    assert sorted(answer.json()["subscriptions"]) == sorted(SIX)
    everything.wait_for([answer.json()["id"]])
    arrived = [each for each in everything.arrivals() if each.id == answer.json()["id"]]
    assert sorted(each.sink for each in arrived) == sorted(SIX)
    assert {(each.instance, each.event) for each in arrived} == {("well", "MESSAGES_UPSERT")}


@pytest.mark.timeout(180)
def test_a_dead_sink_delays_no_other_one(everything: Six) -> None:
    """Three instances in turn, one of them with a webhook that nobody answers: its five others
    against those of the well one. How two well ones differ is the noise of the machine."""
    client = everything.client()
    client.set_webhook("ill", f"http://127.0.0.1:{free_port()}/", retry=[3600, 3600])
    others = [sink for sink in SIX if sink != "webhook"]
    medians: dict[str, dict[str, float]] = {}
    sent: dict[str, dict[str, float]] = {name: {} for name in INSTANCES}

    for _ in range(ROUNDS):
        for name in INSTANCES:
            began = time.time()
            event_id = emit(everything, name)
            sent[name][event_id] = began
            everything.wait_for([event_id], others)
    for name in INSTANCES:
        found = latencies(everything, sent[name])
        medians[name] = {sink: statistics.median(found[sink]) for sink in others}

    for sink in others:
        well, ill, control = (medians[name][sink] * 1000 for name in INSTANCES)
        print(f"{sink}: well {well:.1f} ms, beside a dead webhook {ill:.1f} ms, {control:.1f} ms")
        # SQS is polled: its arrivals are as late as the poll.
        noise = 3 * abs(well - control) + (20 if sink == "sqs" else 3)
        assert ill - max(well, control) < 1 + noise


@pytest.mark.timeout(180)
def test_a_dead_broker_delays_no_other_sink_and_gets_all_when_it_is_back(everything: Six) -> None:
    others = [sink for sink in SIX if sink != "nats"]
    before = [emit(everything, "control") for _ in range(5)]
    everything.wait_for(before)

    everything.servers.nats.kill9()
    during = []
    for _ in range(20):
        during.append(emit(everything, "control"))
        everything.wait_for(during[-1:], others, timeout=15)
    everything.servers.nats.start()

    everything.wait_for(during, ["nats"], timeout=60)
    wait_for(lambda: everything.house.flask("audit")[0] == 0, 30, "the books to balance")
