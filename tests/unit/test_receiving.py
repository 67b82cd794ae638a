"""The helper for receivers: what it accepts, what it remembers, what it finds missing."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from evoflask.receiver import Gap, NotOurs, Received, Repeats, gaps, verify
from evoflask.signing import new_private_key, new_secret, public_key, sign

SECRET, PRIVATE = new_secret(), new_private_key()
NOW = 1_700_000_000
BODY = b'{"event": "CALL"}'


def headers(key: str = SECRET, at: int = NOW, **more: str) -> dict[str, str]:
    return {
        "Webhook-Id": "e-1",
        "Webhook-Timestamp": str(at),
        "Webhook-Signature": sign(key, "e-1", at, BODY),
        **more,
    }


@pytest.mark.parametrize(
    ("private", "key"), [(SECRET, SECRET), (PRIVATE, public_key(PRIVATE))], ids=["v1", "v1a"]
)
def test_what_we_signed_is_ours(private: str, key: str) -> None:
    received = verify(key, headers(private), BODY, now=NOW)

    assert received == Received("e-1", NOW, {"event": "CALL"}, "")


def test_what_the_reference_library_signed_is_ours() -> None:
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(NOW, UTC)
    signature = Webhook(SECRET).sign("e-1", when, BODY.decode())

    given = headers() | {"Webhook-Signature": signature}

    assert verify(SECRET, given, BODY, now=NOW).id == "e-1"


def test_one_key_and_one_signature_that_fit_are_enough() -> None:
    both = f"{sign(new_secret(), 'e-1', NOW, BODY)} v1b,x {sign(SECRET, 'e-1', NOW, BODY)}"
    given = headers() | {"Webhook-Signature": both}

    assert verify([new_secret(), public_key(PRIVATE), SECRET], given, BODY, now=NOW).id == "e-1"


@pytest.mark.parametrize(
    ("given", "body", "now"),
    [
        (headers(new_secret()), BODY, NOW),
        (headers(), BODY + b" ", NOW),
        (headers() | {"Webhook-Id": "e-2"}, BODY, NOW),
        (headers() | {"Webhook-Timestamp": str(NOW + 1)}, BODY, NOW),
        (headers() | {"Webhook-Timestamp": "soon"}, BODY, NOW),
        (headers() | {"Webhook-Timestamp": "\u0661"}, BODY, NOW),
        (headers() | {"Webhook-Timestamp": "9" * 400}, BODY, NOW),
        (headers() | {"Webhook-Signature": ""}, BODY, NOW),
        (headers() | {"Webhook-Signature": "v1,\u00fc"}, BODY, NOW),
        (headers() | {"Webhook-Signature": headers()["Webhook-Signature"][3:]}, BODY, NOW),
        (headers() | {"Webhook-Signature": "v1a" + headers()["Webhook-Signature"][2:]}, BODY, NOW),
        ({}, BODY, NOW),
        (headers(), BODY, NOW + 301),
        (headers(), BODY, NOW - 301),
    ],
)
def test_anything_else_is_not(given: dict[str, str], body: bytes, now: int) -> None:
    with pytest.raises(NotOurs) as caught:
        verify([SECRET, public_key(PRIVATE)], given, body, now=now)

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("at", [NOW - 300, NOW + 300])
def test_a_request_may_be_as_old_as_the_tolerance(at: int) -> None:
    assert verify(SECRET, headers(at=at), BODY, now=NOW).at == at


@pytest.mark.parametrize("key", ["", "hunter2", "whsec_hunter2!", "whsk_aHVzaA=="])
def test_a_key_that_is_none_is_a_mistake_and_no_refusal(key: str) -> None:
    with pytest.raises(ValueError) as caught:
        verify(key, headers(), BODY, now=NOW)

    assert "hunter2" not in str(caught.value)


def test_a_test_and_a_replay_are_told_apart() -> None:
    assert verify(SECRET, headers(**{"webhook-replay": "true"}), BODY, now=NOW).mark == "replay"
    assert verify(SECRET, headers(**{"webhook-test": "true"}), BODY, now=NOW).mark == "test"


def test_an_id_is_handled_once_unless_that_failed() -> None:
    repeats = Repeats()

    begun = [repeats.begin("a", 0.0), repeats.begin("a", 1.0), repeats.begin("b", 1.0)]
    repeats.forget("a")

    assert begun == [True, False, True]
    assert repeats.begin("a", 2.0)


def test_what_is_remembered_has_a_bound_and_an_end() -> None:
    repeats = Repeats(most=3, seconds=10.0)

    for n in range(5):
        repeats.begin(f"e{n}", float(n))

    assert [repeats.begin(f"e{n}", 5.0) for n in (3, 4)] == [False, False]
    assert repeats.begin("e0", 5.0)
    assert repeats.begin("e4", 15.1)


def test_gaps_are_what_was_delivered_or_died_and_is_not_here() -> None:
    asked: list[str] = []

    def get(path: str) -> Any:
        asked.append(path)
        if path.startswith("/attempt"):
            if "after=7" in path:
                return {"attempts": [{"eventId": "c"}, {"eventId": "b"}], "next": None}
            return {"attempts": [{"eventId": "a"}, {"eventId": "b"}], "next": "7"}
        return {"letters": [{"eventId": "d", "reason": "410"}], "next": None}

    found = list(gaps(get, "acme", "crm", {"a"}, since=5.0))

    assert found == [Gap("b", "lost here"), Gap("c", "lost here"), Gap("d", "dead", "410")]
    assert all("instance=acme&subscription=crm&since=5.0" in path for path in asked)


def test_the_file_can_be_copied_and_needs_nothing(tmp_path: Path, root: Path) -> None:
    """Not even `cryptography`, where no key asks for it."""
    (tmp_path / "copied.py").write_text((root / "evoflask/receiver.py").read_text())
    script = (
        "import sys, json, copied\n"
        "key, at, signature = sys.argv[1:]\n"
        "given = {'webhook-id': 'e', 'webhook-timestamp': at, 'webhook-signature': signature}\n"
        "print(copied.verify(key, given, b'{}', now=float(at)).id)\n"
        "assert not {'cryptography', 'evoflask', 'flask'} & set(sys.modules)\n"
    )

    said = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{script}",
         SECRET, "1", sign(SECRET, "e", 1, b"{}")],
        capture_output=True, text=True,
    )  # fmt: skip

    assert said.stdout == "e\n", said.stderr


def test_base64_of_our_keys_is_what_it_takes() -> None:
    assert len(base64.b64decode(public_key(PRIVATE).removeprefix("whpk_"))) == 32
