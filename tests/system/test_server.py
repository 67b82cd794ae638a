"""Our HTTP server around an application of the test: what no view of ours does is tried here."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from evoflask.dev.process import Process, free_port, wait_for

THREADS = 4
PIECE = 4_000_000
"""Bytes of one piece of a streamed answer."""
FILES = 64
"""The limit of open files: fewer than connections that the server would take."""
APPLICATION = f"""
import os, pathlib, time

HERE = pathlib.Path(__file__).parent


def take_all_files():
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        (HERE / "taken").mkdir()
    while not (HERE / "free").exists():
        time.sleep(0.05)
    for each in taken:
        os.close(each)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"x" * {PIECE} for _ in range(10_000))
    if path == "/files":
        take_all_files()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
"""
SETTINGS = """
from evoflask.serving.worker import PatientWorker

bind = "127.0.0.1:{port}"
threads = {threads}
worker_class = PatientWorker
worker_connections = 1_000
keepalive = 60
control_socket_disable = True
"""


class Server:
    """Run gunicorn with one worker in a private `folder`."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "application.py").write_text(APPLICATION)
        settings = folder / "settings.py"
        settings.write_text(SETTINGS.format(port=self.port, threads=THREADS))
        limit = ["prlimit", f"--nofile={FILES}:{FILES}"]
        command = [*limit, sys.executable, "-m", "gunicorn", "-c", str(settings), "application:app"]
        env = os.environ | {"PYTHONPATH": f"{root}:{folder}"}
        self.process = Process(command, env=env, log=folder / "log")

    def answers(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{self.port}/", timeout=60).text == "ok"
        return False

    def peer(self, path: str, source: str = "127.0.0.1") -> socket.socket:
        """A connection that asked for something."""
        made = socket.create_connection(("127.0.0.1", self.port), 60, (source, 0))
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return made

    def sockets(self) -> int:
        """Sockets that the worker has open."""
        count = 0
        for each in (self.worker / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                count += each.readlink().name.startswith("socket:")
        return count

    @property
    def worker(self) -> Path:
        """The folder in /proc of the process that answers."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return Path("/proc") / child

    def cpu(self) -> float:
        """Seconds of CPU that the worker has used."""
        fields = (self.worker / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self) -> int:
        """Bytes of memory that the worker had at most."""
        lines = (self.worker / "status").read_text().splitlines()
        return int(next(each for each in lines if each.startswith("VmHWM:")).split()[1]) * 1024


def hear(peer: socket.socket) -> bytes:
    """One answer; b"": the server hung up."""
    heard = b""
    while not heard.endswith(b"ok") and (piece := peer.recv(1_000)):
        heard += piece
    return heard


@pytest.fixture
def server(tmp_path: Path, root: Path) -> Iterator[Server]:
    made = Server(tmp_path, root)
    with made.process:
        wait_for(made.answers, 60, "the server to answer", 0.1)
        yield made


def test_a_client_that_does_not_read_a_stream_holds_one_piece_and_no_other_request(
    server: Server,
) -> None:
    before = server.rss()

    with contextlib.ExitStack() as stack:
        for _ in range(2 * THREADS):
            peer = stack.enter_context(server.peer("/stream", "127.0.0.2"))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        assert server.answers()
        grown = server.rss() - before

    print(f"{2 * THREADS} unread streams: {grown // 1_000_000} MB more at most")
    assert grown < 4 * THREADS * PIECE


def test_with_no_file_left_the_server_rests_and_accepts_again_once_there_are_some(
    server: Server,
) -> None:
    """The files are no connections: the bound of connections does not help."""
    with contextlib.ExitStack() as stack:
        wait_for(lambda: server.sockets() == 1, 60, "the listener to be the only socket")
        busy = stack.enter_context(server.peer("/files"))
        wait_for((server.folder / "taken").exists, 60, "all files to be taken")
        waiting = [stack.enter_context(server.peer("/")) for _ in range(3 * THREADS)]
        cpu, began = server.cpu(), time.monotonic()
        wait_for(lambda: time.monotonic() > began + 3, 60, "three seconds without a file")
        used, passed = server.cpu() - cpu, time.monotonic() - began
        assert server.sockets() == 2
        (server.folder / "free").mkdir()

        for each in (busy, *waiting):
            assert hear(each).endswith(b"ok")
        assert server.answers()

    print(f"{used:.2f} s of CPU in {passed:.1f} s without a file")
    assert used < passed / 4


def test_with_no_file_left_an_idle_connection_gives_its_own_to_one_that_waits(
    server: Server,
) -> None:
    with contextlib.ExitStack() as stack:
        idle = stack.enter_context(server.peer("/"))
        assert hear(idle).endswith(b"ok")
        stack.enter_context(server.peer("/files"))
        wait_for((server.folder / "taken").exists, 60, "all files to be taken")

        for _ in range(THREADS):
            assert hear(stack.enter_context(server.peer("/"))).endswith(b"ok")

        assert hear(idle) == b""
