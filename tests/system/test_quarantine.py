"""An event that kills whoever sends it: it ends as a letter, and its neighbours are delivered."""

from __future__ import annotations

from pathlib import Path

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import message

KILLER = """
import importlib.util, os, signal, sys

class Deadly:
    # Strikes the webhook sink when it is imported: one body kills its process.

    def find_spec(self, name, path, target=None):
        if name != "evoflask.sinks.webhook":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            deliver = module.WebhookSink.deliver

            async def deadly(self, batch):
                if any(b"poison" in delivery.data for delivery in batch):
                    os.kill(os.getpid(), signal.SIGKILL)
                return await deliver(self, batch)

            module.WebhookSink.deliver = deadly

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Deadly())
"""
"""As `sitecustomize`, so that the worker and the process that it starts are both struck."""


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(240)
def test_an_event_that_kills_its_worker_ends_as_a_letter_and_takes_nobody_along(
    make_house: MakeHouse, receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    house = make_house(hold_seconds=2, workers=0)
    house.env["PYTHONPATH"] = str(tmp_path)
    client = house.client()
    for instance in ("poisoned", "healthy"):
        client.create(instance)
        client.set_webhook(instance, receiver.url(f"/ok/{instance}"))
    house.start("worker")
    poison = client.emit("poisoned", data={"text": "poison"}).json()["id"]
    ids = {client.emit("poisoned", data=message(n, str(n))).json()["id"] for n in range(20)}
    ids |= {client.emit("healthy", data=message(n, str(n))).json()["id"] for n in range(20)}

    def ended() -> bool:
        house.revive()
        return bool(client.good("GET", "/deadletter")["letters"])

    wait_for(ended, 200, "the letter", 0.2)

    letters = client.good("GET", "/deadletter")["letters"]
    assert [(each["eventId"], each["reason"]) for each in letters] == [(poison, "crashed")]
    house.wait_quiet()
    assert set(receiver.ids()) == ids
    assert not house.off()
