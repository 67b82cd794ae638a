"""What was stored in the clear is sealed by an upgrade, and opened again by its way back."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playhouse.migrations import Runner

from evoflask import db, vault
from evoflask.models import Subscription

PLAIN = '{"url":"https://example.com/PLANTED","headers":{"X":"PLANTED"}}'
SECRET = "whsec_" + base64.b64encode(b"PLANTED" * 4).decode()
ROWS = 1_200
"""More than two pieces."""


@dataclass(frozen=True)
class Url:
    database_url: str


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A database of the version before, with subscriptions."""
    path = tmp_path / "old.db"
    db.connect(Url(f"sqlite:///{path}"))
    Runner(db.database.obj, str(db.MIGRATIONS)).up("0008_letter_indexes")
    db.database.execute_sql(
        "INSERT INTO instance VALUES (1, 'a', 'o', 0, 't', 'E', NULL, 1, 0, NULL, 0, 0)"
    )
    for n in range(ROWS):
        db.database.execute_sql(
            "INSERT INTO subscription (instance_id, name, sink, lane, enabled, stopped, events,"
            " format, concurrency, on_failure, timeout, secret, settings, version, created_at,"
            " updated_at) VALUES (1, ?, 'webhook', ?, 1, 0, '[]', 'standard', 8, 'pass', 30,"
            " ?, ?, 1, 0, 0)",
            (f"s{n}", f"l{n}", SECRET if n % 2 else None, PLAIN),
        )
    yield path
    db.close()


def sealed_rows() -> set[tuple[int, str]]:
    """Those whose settings are."""
    query = "SELECT id, settings FROM subscription WHERE settings LIKE 'sealed:1:%'"
    return set(db.database.execute_sql(query).fetchall())


def held(path: Path) -> bytes:
    """Everything that the file holds, once SQLite has put away its log."""
    db.database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))


def test_an_upgrade_seals_every_row_and_leaves_nothing_in_the_file(old: Path) -> None:
    assert b"PLANTED" in held(old)

    assert "0009_seal_secrets" in db.upgrade()

    rows = list(Subscription.select())
    assert len(rows) == ROWS
    assert {row.open_settings()["url"] for row in rows} == {"https://example.com/PLANTED"}
    assert {row.open_secret() for row in rows} == {SECRET, None}
    assert b"PLANTED" not in held(old)
    assert SECRET[10:30].encode() not in held(old)


def test_an_upgrade_that_was_cut_off_goes_on(old: Path) -> None:
    sealed = vault.current().seal(PLAIN)
    db.database.execute_sql("UPDATE subscription SET settings = ? WHERE id < 700", (sealed,))

    db.upgrade()

    rows = Subscription.select()
    assert {row.open_settings()["url"] for row in rows} == {"https://example.com/PLANTED"}


def test_an_upgrade_keeps_each_piece_that_is_done(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, seal = iter(range(1_300)), vault.Vault.seal
    monkeypatch.setattr(vault.Vault, "seal", lambda keys, text: (next(left), seal(keys, text))[1])

    with pytest.raises(StopIteration):
        db.upgrade()
    kept = sealed_rows()
    monkeypatch.undo()
    db.upgrade()

    assert 0 < len(kept) < ROWS
    assert kept <= sealed_rows()
    assert len(sealed_rows()) == ROWS


def test_an_upgrade_lets_others_write_and_keeps_what_they_wrote(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, seal, calls = sqlite3.connect(old, timeout=0, isolation_level=None), vault.Vault.seal, []
    newer = PLAIN.replace("/PLANTED", "/NEWER")

    def write_meanwhile(keys: vault.Vault, text: str) -> str:
        calls.append(text)
        if len(calls) % 500 == 250:
            change = "UPDATE subscription SET settings = ? WHERE name = ?"
            other.execute(change, (newer, f"s{len(calls) % ROWS}"))
        return seal(keys, text)

    monkeypatch.setattr(vault.Vault, "seal", write_meanwhile)
    db.upgrade()
    other.close()

    rows = list(Subscription.select())
    urls = [row.open_settings()["url"] for row in rows]
    assert all(row.settings.text.startswith(vault.PREFIX) for row in rows)
    assert urls.count("https://example.com/NEWER") == len(
        {n % ROWS for n in range(250, len(calls), 500)}
    )


def test_what_an_old_file_had_thrown_away_goes_when_it_is_written_anew(old: Path) -> None:
    long = PLAIN.replace("PLANTED", "THROWN-AWAY" * 50)
    for text in (long, PLAIN):
        db.database.execute_sql("UPDATE subscription SET settings = ? WHERE id < 300", (text,))
    db.upgrade()

    db.database.execute_sql("VACUUM")

    assert b"THROWN-AWAY" not in held(old)


def test_the_way_back_opens_every_row(old: Path) -> None:
    db.upgrade()

    Runner(db.database.obj, str(db.MIGRATIONS)).down("0009_seal_secrets")

    rows = db.database.execute_sql("SELECT DISTINCT settings FROM subscription").fetchall()
    assert rows == [(PLAIN,)]
