"""A private rabbitmq-server: on loopback, with its own data, cookie, node name and epmd."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from evoflask.dev.process import Process, free_port, wait_for
from evoflask.dev.server import Server, find_program

_DEBIAN = Path("/usr/lib/rabbitmq/bin")
"""Where Debian keeps the programs. What it puts on PATH is a wrapper that runs them as the user
`rabbitmq`, drops the environment and refuses everybody but root."""

# epmd, which tells where a node listens, makes itself a daemon when the node starts it, and
# then outlives it. Started here and in the foreground, it is of this group, and it dies with
# the node that this shell becomes.
_START = """
setpriv --pdeathsig KILL "$0" -address 127.0.0.1 -port "$ERL_EPMD_PORT" &
until "$0" -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do sleep 0.05; done
exec "$1"
"""


class RabbitmqServer(Server):
    """A broker that is started, killed and started again on the same data and address.

    `user`, `password`: whom it knows; guest is let in from loopback. `config`: more lines of
    rabbitmq.conf.
    """

    name: ClassVar[str] = "rabbitmq"
    patience: ClassVar[float] = 90.0

    def __init__(
        self,
        data: Path,
        *,
        port: int | None = None,
        user: str = "guest",
        password: str = "guest",  # noqa: S107 - the broker's own default, on loopback
        config: str = "",
    ) -> None:
        super().__init__(data.absolute())
        self.port = port or free_port()
        self.user, self.password = user, password
        self._config = config
        self._epmd_port, self._dist_port = free_port(), free_port()

    @property
    def url(self) -> str:
        """For `RABBITMQ_URI`."""
        return self.url_of(self.user, self.password)

    def url_of(self, user: str, password: str, vhost: str = "/") -> str:
        """The same server for somebody else, or another virtual host."""
        who = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"amqp://{who}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def command(self) -> Process:
        server = _program("rabbitmq-server")
        epmd = find_program("epmd", "Debian's package erlang-base")
        (self.data / "rabbitmq.conf").write_text(self._lines())
        (self.data / "enabled_plugins").write_text("[].\n")
        return Process(
            ["sh", "-c", _START, str(epmd), str(server)],
            name=self.name,
            env=self._environment(),
            cwd=self.data,
            log=self.data / "rabbitmq.log",
        )

    def answers(self) -> bool:
        # By hand: pika logs each attempt that fails, and a start takes a hundred of them. The
        # listener is the last thing that a broker starts.
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"  # a method: connection.start

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """`rabbitmqctl …` on this node; what it wrote. Raises `RuntimeError` with its words."""
        done = subprocess.run(
            [str(_program("rabbitmqctl")), "--quiet", *arguments],
            env=self._environment(),
            cwd=self.data,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stderr or done.stdout}")
        return done.stdout

    def keep(self) -> None:
        """What was declared so far outlives a kill: the broker writes it down some moments after
        it has answered. Raises `RuntimeError`."""
        said = self.ctl("eval", "mnesia:sync_log().").strip()
        if said != "ok":
            raise RuntimeError(f"mnesia:sync_log() answered {said}")

    def stop(self, grace: float = 20.0) -> None:
        super().stop(grace)
        self._wait_closed()

    def kill9(self) -> None:
        super().kill9()
        self._wait_closed()

    def _wait_closed(self) -> None:
        """Erlang's port programs end a moment after the node; a new one needs the ports."""
        if self.process is not None and (pid := self.process.pid):
            wait_for(lambda: not _group(pid), 10, "the end of the broker's programs")

    def _lines(self) -> str:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"default_user = {self.user}",
            f"default_pass = {self.password}",
            "log.console = true",
            "log.console.level = warning",
            "log.file = false",
            "disk_free_limit.absolute = 50MB",
            self._config,
        ]
        return "\n".join(lines) + "\n"

    def _environment(self) -> dict[str, str]:
        """Nothing of the machine's own broker, whose settings are in /etc and in variables."""
        own = {
            "HOME": self.data,  # the cookie
            "RABBITMQ_NODENAME": f"evoflask-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": self._dist_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": self._epmd_port,
            "RABBITMQ_CONFIG_FILE": self.data / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": self.data / "advanced.config",
            "RABBITMQ_CONF_ENV_FILE": self.data / "rabbitmq-env.conf",
            "RABBITMQ_MNESIA_BASE": self.data / "mnesia",
            "RABBITMQ_LOG_BASE": self.data / "log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_FEATURE_FLAGS_FILE": self.data / "feature_flags",
            "RABBITMQ_PLUGINS_EXPAND_DIR": self.data / "plugins",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.data / "enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": self.data / "config",
            "RABBITMQ_PID_FILE": self.data / "pid",
            # The node itself is the leader of the group, no shell that waits for it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("-kernel inet_dist_use_interface {127,0,0,1}"),
            "LANG": "C.UTF-8",
        }
        foreign = ("RABBITMQ_", "ERL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return kept | {name: str(value) for name, value in own.items()}


def _program(name: str) -> Path:
    own = _DEBIAN / name
    return own if os.access(own, os.X_OK) else find_program(name, "the package rabbitmq-server")


def _group(leader: int) -> bool:
    """Whether anybody is left in a process group."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
