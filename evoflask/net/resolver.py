"""Look up the names of tenants' hosts, within bounds that no tenant can use up alone.

A look-up has a thread of its own, for up to 20 s where the name's servers do not answer. A thread
cannot be stopped, so its slot stays taken until the system answers.

A tenant has `EACH` look-ups at once, so its dead names delay no other tenant's names. Names that
were slow before get half of these slots, and half of all. Together with names that were never
looked up they get three quarters. So dead names of many tenants, also new ones, leave slots for
names that answered before.

An answer is kept for `CACHE_SECONDS`. A name is not looked up twice at once. But no tenant waits
for a look-up that has no slot yet: a tenant with free slots starts its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from evoflask.net import guard, story
from evoflask.net.guard import Network

LOOKUPS: Final = 256
"""Look-ups of a process at once. Each has a thread."""
EACH: Final = 8
"""Look-ups of one tenant at once."""
SLOW_SECONDS: Final = 1.0
"""A look-up that takes longer marks its name as slow, until it is answered in less."""
REMEMBERED: Final = 20_000
"""Names whose pace is remembered."""
CACHE_SECONDS: Final = 10.0
CACHED: Final = 20_000
"""Answers kept, at most."""

_Key = tuple[str, int, int]
_tenant: ContextVar[str] = ContextVar("tenant", default="")


class ForbiddenAddress(OSError):
    """The guard refuses an address of the host. The text names host and reason."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(f"{host} may not be reached: {reason}{guard.hint(reason)}")


@contextlib.contextmanager
def asked_by(tenant: str) -> Iterator[None]:
    """Charge look-ups within this block to a tenant. aiohttp has no argument for it."""
    token = _tenant.set(tenant)
    try:
        yield
    finally:
        _tenant.reset(token)


class GuardedResolver(AbstractResolver):
    """The system's resolver, for names whose addresses may all be reached. For one loop."""

    def __init__(self, allow_networks: Sequence[Network]) -> None:
        self._allow = tuple(allow_networks)
        self._lookups = Lookups()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises ForbiddenAddress where one of its addresses may not be reached, OSError where
        there is none."""
        infos = await self._lookups.look_up(host, port, family)
        reasons = {str(info[4][0]): guard.allowed(str(info[4][0]), self._allow) for info in infos}
        if (told := story.current()) is not None:
            told.addresses = [{"address": a, "refused": why} for a, why in reasons.items()]
            told.step("resolve")
        # A single forbidden address refuses the name: its owner points at a private network.
        refused = next(filter(None, reasons.values()), None if reasons else "no address")
        if refused is not None:
            raise ForbiddenAddress(host, refused)
        return [_result(host, port, info) for info in infos]

    async def close(self) -> None:
        """Do nothing: a thread under way ends by itself, and is a daemon."""


class _Slots:
    """Slots for look-ups, in all and for names of each pace."""

    def __init__(self, most: int) -> None:
        self.all = asyncio.Semaphore(most)
        self.unproven = asyncio.Semaphore(most - most // 4)
        """Slots for names that were slow, or never looked up."""
        self.slow = asyncio.Semaphore(max(1, most // 2))
        self.users = 0
        """Look-ups that run or wait."""


class Lookups:
    """Look-ups of one loop. See the module for the bounds."""

    def __init__(self, most: int = LOOKUPS, each: int = EACH) -> None:
        self._most = _Slots(most)
        self._each = each
        self._tenants: dict[str, _Slots] = {}
        """Slots of the tenants that have look-ups under way."""
        self._running: dict[_Key, asyncio.Future[list[Any]]] = {}
        self._answers: OrderedDict[_Key, tuple[float, list[Any]]] = OrderedDict()
        """Each answer with its end, on the loop's clock. The earliest comes first."""
        self._is_slow: OrderedDict[str, bool] = OrderedDict()
        """Names that were looked up, the latest last."""

    async def look_up(self, host: str, port: int, family: int) -> list[Any]:
        """Return what `getaddrinfo` returns. Raises what it raises."""
        key = (host, port, int(family))
        found = self._found(key)
        if found is None:
            slots = await self._slots(host)
            found = self._found(key)
            if found is None:
                found = self._start(key, slots)
            else:
                slots.close()
        # A caller that gives up ends no look-up: others may wait for it.
        return list(await asyncio.shield(found) if isinstance(found, asyncio.Future) else found)

    def _found(self, key: _Key) -> asyncio.Future[list[Any]] | list[Any] | None:
        """Return the look-up that runs, or the answer that is kept."""
        if (running := self._running.get(key)) is not None:
            return running
        found = self._answers.get(key)
        if found is None or found[0] <= asyncio.get_running_loop().time():
            return None
        infos = found[1]
        infos.append(infos.pop(0))  # the next caller begins at the next address
        return infos

    async def _slots(self, host: str) -> contextlib.ExitStack:
        """Wait for a slot of each bound. The stack gives them back."""
        taken = contextlib.ExitStack()
        bounds = [*self._slots_of(_tenant.get(), taken), self._most]
        gates = [each.all for each in bounds]
        is_slow = self._is_slow.get(host)
        # A name waits for others of its pace before it takes a slot that any name may have.
        if is_slow is not False:
            gates = [each.unproven for each in bounds] + gates
        if is_slow:
            gates = [each.slow for each in bounds] + gates
        try:
            for gate in gates:
                await gate.acquire()
                taken.callback(gate.release)
        except BaseException:
            taken.close()
            raise
        return taken

    def _slots_of(self, tenant: str, taken: contextlib.ExitStack) -> list[_Slots]:
        """Return the slots of the tenant; none for a name of the operator."""
        if not tenant:
            return []
        slots = self._tenants.setdefault(tenant, _Slots(self._each))
        slots.users += 1

        def leave() -> None:
            slots.users -= 1
            if not slots.users:
                del self._tenants[tenant]

        taken.callback(leave)
        return [slots]

    def _start(self, key: _Key, slots: contextlib.ExitStack) -> asyncio.Future[list[Any]]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        host, port, family = key

        def done(future: asyncio.Future[list[Any]]) -> None:
            slots.close()
            del self._running[key]
            self._note_pace(host, loop.time() - began)
            # Asking for the error marks it as seen: the callers may have given up.
            if not future.cancelled() and future.exception() is None:
                self._keep(key, future.result())

        try:
            future = _in_thread(lambda: _look_up(host, port, family))
        except RuntimeError as error:
            slots.close()
            raise OSError(errno.EAGAIN, "no thread for a look-up") from error
        self._running[key] = future
        future.add_done_callback(done)
        return future

    def _note_pace(self, host: str, seconds: float) -> None:
        self._is_slow[host] = seconds > SLOW_SECONDS
        self._is_slow.move_to_end(host)
        if len(self._is_slow) > REMEMBERED:
            self._is_slow.popitem(last=False)

    def _keep(self, key: _Key, infos: list[Any]) -> None:
        if not infos:
            return
        now = asyncio.get_running_loop().time()
        self._answers.pop(key, None)
        self._answers[key] = (now + CACHE_SECONDS, list(infos))
        while len(self._answers) > CACHED or next(iter(self._answers.values()))[0] <= now:
            self._answers.popitem(last=False)


def _in_thread(call: Callable[[], list[Any]]) -> asyncio.Future[list[Any]]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[Any]] = loop.create_future()

    def settle(result: list[Any] | None, error: BaseException | None) -> None:
        if future.done():  # the loop ends
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or [])

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="dns", daemon=True).start()
    return future


def _look_up(host: str, port: int, family: int) -> list[Any]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _result(host: str, port: int, info: Any) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(info[4][0]),
        port=port,
        family=info[0],
        proto=info[2],
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
