"""The mask: what it hides, and that sending it back changes nothing."""

from __future__ import annotations

from typing import Any

import pytest

from evoflask.masks import MASK, NothingBehind, hide_password, reveal, show

WEBHOOK: dict[str, Any] = {
    "url": "https://user:hunter2@example.com/hook?x=1",
    "headers": {"Authorization": "Bearer hunter2", "X-Team": "a"},
    "byEvents": False,
}
SQS: dict[str, Any] = {"queueUrl": None, "accessKeyId": "AKIA", "secretAccessKey": "hunter2"}
PUSHER: dict[str, Any] = {"appId": "1", "secret": "hunter2", "key": "k"}
ALL = [("webhook", WEBHOOK), ("sqs", SQS), ("pusher", PUSHER)]


@pytest.mark.parametrize(("sink", "own"), ALL)
def test_no_secret_is_shown(sink: str, own: dict[str, Any]) -> None:
    assert "hunter2" not in str(show(sink, own))


@pytest.mark.parametrize(("sink", "own"), ALL)
def test_what_was_shown_means_what_is_stored(sink: str, own: dict[str, Any]) -> None:
    shown = show(sink, own)

    assert {name: reveal(sink, name, value, own[name]) for name, value in shown.items()} == own


def test_what_is_no_secret_is_shown() -> None:
    assert show("sqs", SQS) == SQS | {"secretAccessKey": MASK}
    assert show("webhook", {"url": "https://e.com/?a=@b", "headers": {}}) == {
        "url": "https://e.com/?a=@b",
        "headers": {},
    }


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/x", "https://a.example/x"),
        ("https://u:p@a.example/u:p@x", f"https://u:{MASK}@a.example/u:p@x"),
        ("https://token@a.example", f"https://{MASK}@a.example"),
        ("https://u:@a.example:8", f"https://u:{MASK}@a.example:8"),
        ("https://u:p@p@a.example", f"https://u:{MASK}@a.example"),
    ],
)
def test_a_url_keeps_all_but_what_lets_in(url: str, shown: str) -> None:
    assert hide_password(url) == shown


def test_a_header_is_kept_by_its_name_in_any_case() -> None:
    given = {"authorization": MASK, "X-New": "n"}

    assert reveal("webhook", "headers", given, WEBHOOK["headers"]) == {
        "authorization": "Bearer hunter2",
        "X-New": "n",
    }


@pytest.mark.parametrize("stored", [None, {}, {"X-Other": "x"}])
def test_the_mask_stands_for_nothing_where_nothing_is_stored(stored: dict[str, str] | None) -> None:
    with pytest.raises(NothingBehind, match=r"headers\.Authorization"):
        reveal("webhook", "headers", {"Authorization": MASK}, stored)


def test_the_mask_elsewhere_is_a_word_like_any() -> None:
    assert reveal("webhook", "url", f"https://{MASK}", "https://e.com") == f"https://{MASK}"
    assert reveal("pusher", "key", MASK, "k") == MASK
