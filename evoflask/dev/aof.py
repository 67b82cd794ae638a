"""Repair the append-only file of a private Redis after a loss of power.

A file system may leave zeros where the last writes were. Redis refuses to start on them, though
nothing else is wrong. `mend` cuts only these zeros, as `redis-check-aof --fix` does. Before Redis 7
there is one file; since then a folder with a manifest, a base and increments.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

from evoflask.errors import Misconfigured
from evoflask.plurals import counted

CHECK_SECONDS = 300.0
"""Seconds that Redis' own check may take: it reads the whole file."""
BLOCK = 1024 * 1024
LONGEST_TAIL = 64 * 1024 * 1024
"""Bytes between the last good command and the zeros, at most. Each of our commands is smaller."""

_COUNT = re.compile(rb"([*$])([0-9]{1,10})\r\n")
_ANALYZED = re.compile(r"ok_up_to=(\d+)")


def last_file(data: Path) -> Path | None:
    """Return the file that Redis appends to, or None if there is none yet."""
    folder = data / "appendonlydir"
    if not folder.is_dir():
        single = data / "appendonly.aof"
        return single if single.exists() else None
    found = []
    for manifest in folder.glob("*.manifest"):
        for line in manifest.read_text(errors="replace").splitlines():
            words = line.split()
            facts = dict(zip(words[::2], words[1::2], strict=False))
            if facts.get("type") == "i" and facts.get("seq", "").isdigit():
                found.append((int(facts["seq"]), folder / facts.get("file", "").strip('"')))
    path = max(found, default=(0, None))[1]
    return path if path is not None and path.is_file() else None


def mend(data: Path, binary: Path) -> str:
    """Cut the zeros at the end of the file, if they are its only fault, and keep the original.

    Return a sentence about it, or "" if there was nothing to cut. Raises `Misconfigured` with the
    command to run if the file has another fault too.
    """
    path = last_file(data)
    if path is None or not _ends_in_zero(path):
        return ""
    size, zeros = path.stat().st_size, _where_zeros_begin(path)
    good = 0 if zeros == 0 else _good_bytes(path, binary)
    if good is None or not _is_cut_off(path, good, zeros):
        raise Misconfigured(explain(data, binary))
    copy = path.with_name(f"{path.name}.before-cut-{time.time_ns() // 1_000_000}")
    try:
        shutil.copy2(path, copy)
        _sync(copy)
        os.truncate(path, good)
        _sync(path)
    except OSError as error:
        raise Misconfigured(
            f"{path} ends in zeros, and cannot be copied and cut: {error.strerror}."
        ) from error
    return (
        f"{path} ended in {size - zeros} zero bytes, as a loss of power leaves them: cut from "
        f"{size} to {counted(good, 'byte')}, its last good command. The original is {copy}."
    )


def explain(data: Path, binary: Path) -> str:
    """Return the file's fault and the command to run, or "" if Redis' check finds no fault."""
    path = last_file(data)
    if path is None:
        return ""
    good, size = _good_bytes(path, binary), path.stat().st_size
    if good == size:
        return ""
    where = "" if good is None else f" after byte {good} of {size}"
    words = ["exec", "-a", "redis-check-aof", str(binary), "--fix", str(path)]
    return (
        f"The append-only file {path} is damaged{where}, by more than zeros at its end. Copy it, "
        "then cut it there, which loses all that follows: "
        f"bash -c {shlex.quote(shlex.join(words))}"
    )


def _good_bytes(path: Path, binary: Path) -> int | None:
    """Return the length of the commands that Redis' own check finds good, or None.

    redis-server acts as redis-check-aof if it is called by that name.
    """
    name = "valkey-check-aof" if "valkey" in binary.name else "redis-check-aof"
    try:
        ran = subprocess.run(
            [name, str(path)],
            executable=binary,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = _ANALYZED.findall(ran.stdout)
    if said:
        return int(said[-1])
    return path.stat().st_size if ran.returncode == 0 else None


def _ends_in_zero(path: Path) -> bool:
    """Return True if the last byte is zero. No good file ends with one."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\0"


def _where_zeros_begin(path: Path) -> int:
    """Return the offset of the first of the zeros that reach to the end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - BLOCK)
            file.seek(begin)
            kept = file.read(end - begin).rstrip(b"\0")
            if kept:
                return begin + len(kept)
            end = begin
    return 0


def _is_cut_off(path: Path, good: int, zeros: int) -> bool:
    """Return True if nothing but the beginning of commands lies between the two offsets."""
    if not 0 <= zeros - good <= LONGEST_TAIL:
        return False
    with path.open("rb") as file:
        file.seek(good)
        return begins_commands(file.read(zeros - good))


class _End(Exception):
    """The bytes end within a command."""


def begins_commands(tail: bytes) -> bool:
    """Return True if `tail` is made of commands of an append-only file. Pure.

    The last command may be cut off.
    """
    at = 0
    try:
        while at < len(tail):
            if tail[at : at + 1] == b"#":  # an annotation
                at = _line_end(tail, max(tail.find(b"\r", at), 0) or len(tail))
                continue
            count, at = _number(tail, at, b"*")
            for _ in range(count):
                length, at = _number(tail, at, b"$")
                at = _line_end(tail, at + length)
    except _End:
        return True
    except ValueError:
        return False
    return True


def _number(tail: bytes, at: int, kind: bytes) -> tuple[int, int]:
    """Return the number of a line that begins with `kind`, and the offset after the line."""
    if at >= len(tail):
        raise _End
    found = _COUNT.match(tail, at)
    if found is not None and found[1] == kind:
        return int(found[2]), found.end()
    if len(tail) - at <= 12 and re.fullmatch(re.escape(kind) + rb"[0-9]{0,10}\r?", tail[at:]):
        raise _End
    raise ValueError("no number")


def _line_end(tail: bytes, at: int) -> int:
    """Return the offset after the line's end at `at`."""
    if at >= len(tail) or tail[at:] == b"\r":
        raise _End
    if tail[at : at + 2] != b"\r\n":
        raise ValueError("no end of a line")
    return at + 2


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
