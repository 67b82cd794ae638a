"""Signatures, checked by the reference library and by a known value."""

from __future__ import annotations

import base64
import json
import time

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from evoflask.signing import (
    ED25519,
    PRIVATE,
    SYMMETRIC,
    SigningKey,
    bearer,
    in_use,
    jwt_key_of,
    key_of,
    new_private_key,
    new_secret,
    public_key,
    replace,
    sign,
    sign_all,
    without,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BEARER = (
    "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    ".eyJpYXQiOjE3MDAwMDAwMDAsImV4cCI6MTcwMDAwMDYwMCwiYXBwIjoiZXZvbHV0aW9uIiwiYWN0aW9uIjoid2ViaG9vayJ9"
    ".%s"
)
"""The Bearer of a `jwt_key` at 1,700,000,000 without its signature, which `openssl` made."""


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


# -- ed25519 -----------------------------------------------------------------------------------

# RFC 8032, section 7.1, test 2: the key, its public part. The signature is of our own text,
# and always the same: ed25519 draws nothing. It was made by openssl.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
WHSK = PRIVATE + base64.b64encode(SEED).decode()
FIXED = (
    "v1a,g94fxpjMLz9csz5+CsrFcEPHXGvo8sRtiB8lm0kIwpQ7Y5yEsR96OtyWcIp4nKQ1sGA5yTUc7G+BnMq6o9wiBw=="
)


def verifies(signature: str, public: bytes, signed: bytes) -> bool:
    """By `cryptography`."""
    scheme, _, value = signature.partition(",")
    assert scheme == "v1a"
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(value), signed)
    except InvalidSignature:
        return False
    return True


def test_the_public_key_is_the_one_of_the_rfc() -> None:
    assert public_key(WHSK) == "whpk_" + base64.b64encode(PUBLIC).decode()


def test_an_ed25519_signature_is_of_id_time_and_body_and_always_the_same() -> None:
    signature = sign(WHSK, "msg_1", 1614265330, b'{"test": 2432232314}')

    assert signature == sign(WHSK, "msg_1", 1614265330, b'{"test": 2432232314}') == FIXED
    assert verifies(signature, PUBLIC, b'msg_1.1614265330.{"test": 2432232314}')
    for other in (
        b'msg_2.1614265330.{"test": 2432232314}',
        b'msg_1.1614265331.{"test": 2432232314}',
        b'msg_1.1614265330.{"test": 2432232315}',
    ):
        assert not verifies(signature, PUBLIC, other)
    assert not verifies(sign(new_private_key(), "e", 1, b""), PUBLIC, b"e.1.")


# -- several keys ------------------------------------------------------------------------------


def test_while_a_key_is_exchanged_both_verify_and_afterwards_the_new_one_alone() -> None:
    now = int(time.time())
    old, new = new_secret(), new_secret()
    keys = replace([SigningKey(old)], SYMMETRIC, new, now=now, grace=60)

    def accepts(secret: str, at: int) -> bool:
        headers = {
            "webhook-id": "e",
            "webhook-timestamp": str(at),
            "webhook-signature": sign_all(keys, "e", at, b"{}"),
        }
        try:
            Webhook(secret).verify(b"{}", headers)
        except WebhookVerificationError:
            return False
        return True

    assert (accepts(new, now), accepts(old, now)) == (True, True)
    assert (accepts(new, now + 59), accepts(old, now + 59)) == (True, True)
    assert (accepts(new, now + 60), accepts(old, now + 60)) == (True, False)


def test_both_kinds_sign_and_each_is_exchanged_for_itself() -> None:
    keys = [SigningKey("whsec_a"), SigningKey("whsk_a")]

    exchanged = replace(keys, ED25519, "whsk_b", now=100.0, grace=10.0)

    assert exchanged == [
        SigningKey("whsk_b"),
        SigningKey("whsec_a"),
        SigningKey("whsk_a", 110.0),
    ]
    assert in_use(exchanged, ED25519) == SigningKey("whsk_b")
    assert in_use(exchanged, SYMMETRIC) == SigningKey("whsec_a")
    assert without(exchanged, ED25519) == [SigningKey("whsec_a")]


def test_replaced_keys_have_a_bound_and_an_end() -> None:
    keys: list[SigningKey] = []
    for n in range(5):
        keys = replace(keys, SYMMETRIC, f"whsec_{n}", now=float(n), grace=100.0)

    assert [key.text for key in keys] == ["whsec_4", "whsec_3", "whsec_2"]
    assert replace(keys, SYMMETRIC, "whsec_5", now=1_000.0, grace=1.0) == [
        SigningKey("whsec_5"),
        SigningKey("whsec_4", 1_001.0),
    ]


def test_no_key_signs_nothing_and_none_is_shown() -> None:
    assert sign_all([], "e", 1, b"") == ""
    assert sign_all([SigningKey(new_secret(), until=1.0)], "e", 1, b"") == ""
    assert "whsec" not in repr([SigningKey("whsec_hush")])
    assert "hush" not in repr([SigningKey("whsec_hush")])


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        ("a-key", "9HTqZSdnbJYB-fW9tt6585ekXbCsvjrX3V5T6uoKU_8"),
        ("clé €", "Zn-BhkZnz6NThDYtN89fDEkkGlTFqPetVkrX_bUk27w"),
        ("x" * 4096, "XHESxDgckV6fRc540AEB0VBBztLXAPM9VbN-3NG6eas"),
    ],
)
def test_a_bearer_is_the_hs256_token_that_openssl_signs(key: str, signature: str) -> None:
    assert bearer(key, 1_700_000_000) == BEARER % signature


def test_a_jwt_key_is_found_whatever_the_case_of_its_name() -> None:
    assert jwt_key_of({"X-A": "b", "JWT_Key": "k"}) == "k"
    assert jwt_key_of({"X-A": "b"}) == jwt_key_of({}) == ""
