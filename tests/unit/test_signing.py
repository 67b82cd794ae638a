"""Signatures, checked by the reference library and by a known value."""

from __future__ import annotations

import base64
import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from evoflask.signing import key_of, new_secret, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_specifications_example_is_signed_as_it_says() -> None:
    signature = sign(
        SECRET,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("body", [b"{}", '"ü"'.encode(), b'"%b"' % (b"x" * 1_000_000)])
@pytest.mark.parametrize("event_id", ["e", "a.b.c", "~" * 128])
def test_the_reference_library_verifies(event_id: str, body: bytes) -> None:
    now = int(time.time())

    signature = sign(SECRET, event_id, now, body)

    headers = {
        "webhook-id": event_id,
        "webhook-timestamp": str(now),
        "webhook-signature": signature,
    }
    assert Webhook(SECRET).verify(body, headers) == json.loads(body)


def test_another_body_id_time_or_secret_is_not_verified() -> None:
    now = int(time.time())
    good = {
        "webhook-id": "e",
        "webhook-timestamp": str(now),
        "webhook-signature": sign(SECRET, "e", now, b"{}"),
    }

    for headers, body, secret in (
        (good, b"{ }", SECRET),
        (good | {"webhook-id": "f"}, b"{}", SECRET),
        (good | {"webhook-timestamp": str(now - 1)}, b"{}", SECRET),
        (good, b"{}", new_secret()),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_holds_its_key(size: int) -> None:
    key = bytes(range(size))

    assert key_of("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    [
        *("", "hush-hush", "whsec_", "whsec_hush", "whsec_aHVzaA==", "WHSEC_" + "A" * 32),
        *("whsec_" + "A" * 33, "whsec_" + "A" * 31 + "!", "whsec_" + "A" * 88, "whsec_" + "ü" * 32),
    ],
)
def test_what_is_no_secret_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(ValueError) as caught:
        key_of(secret)

    assert "hush" not in str(caught.value)


def test_new_secrets_differ() -> None:
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(key_of(new_secret())) == 32
