"""Sealing and opening, with one key and while keys are exchanged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from evoflask.errors import Misconfigured, Undecipherable
from evoflask.vault import FILE, PREFIX, Vault, configure, current, make_key, new_key, unlock
from tests.conftest import ENCRYPTION_KEY

OLD, NEW, OTHER = new_key(), new_key(), new_key()


@dataclass(frozen=True)
class Home:
    """Settings without a key."""

    home: Path
    encryption_key: tuple[str, ...] = ()


@pytest.mark.parametrize("text", ["", "whsec_abc", "ключ", PREFIX + "x", "x" * 100_000])
def test_what_was_sealed_opens_as_it_was(text: str) -> None:
    vault = Vault([OLD])

    sealed = vault.seal(text)

    assert vault.open(sealed) == text
    assert sealed.startswith(PREFIX)
    assert text == "" or text not in sealed


def test_the_same_text_is_never_sealed_alike() -> None:
    vault = Vault([OLD])

    assert vault.seal("same") != vault.seal("same")


def test_every_key_opens_and_the_newest_seals() -> None:
    before = Vault([OLD])
    both = Vault([NEW, OLD])
    after = Vault([NEW])
    sealed = before.seal("text")

    again = both.seal(both.open(sealed))

    assert both.stale(sealed)
    assert not both.stale(again)
    assert after.open(again) == "text"
    with pytest.raises(Undecipherable):
        after.open(sealed)


def test_a_sealed_text_that_was_altered_opens_no_more() -> None:
    vault = Vault([OLD])
    sealed = vault.seal("text")
    changed = "A" if sealed[-10] != "A" else "B"

    with pytest.raises(Undecipherable):
        vault.open(sealed[:-10] + changed + sealed[-9:])


@pytest.mark.parametrize("text", ["", "plain", PREFIX, PREFIX + "plain", "gAAAAA", PREFIX + "é"])
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(Undecipherable):
        Vault([OLD]).open(text)


def test_a_home_makes_its_key_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    make_key(tmp_path)
    first = (tmp_path / FILE).read_text()

    make_key(tmp_path)

    assert (tmp_path / FILE).read_text() == first
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == [FILE]


def test_a_key_that_was_not_written_whole_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_key(tmp_path)
    monkeypatch.undo()

    left = (tmp_path / FILE).exists()
    make_key(tmp_path)

    assert not left
    assert Vault([(tmp_path / FILE).read_text().strip()])


@pytest.mark.parametrize("between", ["\n", ", ", ","])
def test_a_home_may_have_several_keys(tmp_path: Path, between: str) -> None:
    (tmp_path / FILE).write_text(f"{NEW}{between}{OLD}\n")

    unlock(Home(tmp_path))

    try:
        assert current().open(Vault([OLD]).seal("text")) == "text"
        assert not current().stale(Vault([NEW]).seal("text"))
    finally:
        configure([ENCRYPTION_KEY])


@pytest.mark.parametrize("keys", [[], [""], ["short"], [OLD, "short"], [OLD[:-1]], ["é" * 44]])
def test_what_is_no_key_is_refused_and_not_repeated(keys: list[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        Vault(keys)

    assert "ENCRYPTION_KEY" in str(caught.value)
    assert all(key not in str(caught.value) for key in keys if key)
