"""Sealing and opening, with one key and while keys are exchanged."""

from __future__ import annotations

import pytest

from evoflask.errors import Misconfigured, Undecipherable
from evoflask.vault import PREFIX, Vault, new_key

OLD, NEW, OTHER = new_key(), new_key(), new_key()


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


@pytest.mark.parametrize("keys", [[], [""], ["short"], [OLD, "short"], [OLD[:-1]], ["é" * 44]])
def test_what_is_no_key_is_refused_and_not_repeated(keys: list[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        Vault(keys)

    assert "ENCRYPTION_KEY" in str(caught.value)
    assert all(key not in str(caught.value) for key in keys if key)
