"""What a power cut costs: `python -m benchmarks.power_cut everysec` (or `always`).

Needs a C compiler. A shim notes, after each fdatasync of redis-server, how long the file
was when that began: so much is on the disk for sure. Under traffic the server is killed by
SIGKILL and started again (the death of the process); then killed once more, its log cut to
what was on the disk, and started again (the loss of power, at its worst). Told for each
round: events that were answered 202, how many of them each of the two lost, and how long
before the kill the oldest lost one was answered.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests

from evoflask.dev.process import whole_lines
from tests.system.house import House, message

ROUNDS = 10
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
int fdatasync(int fd) {
  static int (*real)(int);
  struct stat st;
  char line[64];
  if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
  fstat(fd, &st);
  int answer = real(fd);
  int note = open(getenv("DURABLE"), O_WRONLY | O_APPEND | O_CREAT, 0600);
  int n = snprintf(line, sizeof line, "%lu %lld\n",
                   (unsigned long)st.st_ino, (long long)st.st_size);
  if (note >= 0 && write(note, line, n) == n) close(note);
  return answer;
}
"""


def build(folder: Path) -> Path:
    """The shim as a library."""
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def pour(house: House, answered: list[tuple[float, str]], ended: threading.Event) -> None:
    """Batches of ten events of 1 kB, as fast as they are answered."""
    client, n = house.client(), 0
    while not ended.is_set():
        events = [{"event": "CALL", "data": message(n + i, filler="x" * 900)} for i in range(10)]
        try:
            results = client.emit_many("a", events).json()["results"]
        except (requests.RequestException, KeyError):
            return
        answered += [(time.time(), row["id"]) for row in results if "id" in row]
        n += 10


def kept(house: House) -> set[str]:
    """Ids of what is on the outbox."""
    keys = house.raw.keys("evo:*:outbox:*")
    return {fields[b"id"].decode() for _, fields in house.raw.xrange(keys[0])} if keys else set()


def one(folder: Path, library: Path, fsync: str) -> tuple[int, int, int, float]:
    """(answered, lost by the kill, lost by the cut, age of the oldest lost one in seconds)."""
    durable = folder / "durable"
    os.environ |= {"LD_PRELOAD": str(library), "DURABLE": str(durable)}
    house = House(folder, workers=0, clock=False, fsync=fsync)
    with house:
        del os.environ["LD_PRELOAD"]
        client = house.client()
        client.create("a")
        client.set_webhook("a", "http://127.0.0.1:1/nobody")
        answered: list[tuple[float, str]] = []
        ended = threading.Event()
        threads = [threading.Thread(target=pour, args=(house, answered, ended)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(2.5 + random.random() * 1.5)
        house.redis.kill9()
        at = time.time()
        ended.set()
        for thread in threads:
            thread.join()
        house.redis.start()
        there = kept(house)
        killed = sum(id not in there for _, id in answered)
        house.redis.kill9()
        log = next((house.redis.data / "appendonlydir").glob("*.incr.aof"))
        mine = str(log.stat().st_ino)
        notes = (line.split() for line in whole_lines(durable))
        os.truncate(log, max((int(size) for inode, size in notes if inode == mine), default=0))
        house.redis.start()
        there = kept(house)
        lost = [when for when, id in answered if id not in there]
    return len(answered), killed, len(lost), at - min(lost) if lost else 0.0


def main(fsync: str) -> None:
    """Prints a line a round."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        print(f"appendfsync {fsync}\nanswered  lost by the kill  by the cut  oldest, s")
        for n in range(ROUNDS):
            home = Path(folder) / str(n)
            home.mkdir()
            answered, killed, lost, age = one(home, library, fsync)
            print(f"{answered:8}  {killed:16}  {lost:10}  {age:9.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "everysec")
