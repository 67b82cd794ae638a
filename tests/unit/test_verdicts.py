"""What came of a test, in words."""

from __future__ import annotations

from typing import Any

import pytest

from evoflask.delivery.verdicts import verdict
from evoflask.sinks import delivering
from evoflask.sinks.base import Attempt, Outcome

NOW: dict[str, Any] = {
    "subject": "a.example",
    "names": ["a.example", "b.example"],
    "notBefore": "2020-01-01T00:00:00+00:00",
    "notAfter": "2120-01-01T00:00:00+00:00",
}


@pytest.mark.parametrize("sink", delivering())
def test_each_sink_has_words_for_what_was_delivered(sink: str) -> None:
    words = verdict(sink, Attempt(Outcome.DELIVERED, "200"), {})

    assert words.endswith(".")
    assert "{" not in words


@pytest.mark.parametrize(
    ("sink", "code", "outcome", "words"),
    [
        ("webhook", "404", Outcome.REFUSED, "The receiver answered 404: the URL's path is wrong"),
        ("webhook", "404", Outcome.REFUSED, "An event that gets this answer is retried."),
        ("webhook", "418", Outcome.REFUSED, "An event that gets this answer is retried."),
        ("webhook", "422", Outcome.REJECTED, "becomes a dead letter at once: giveUpOn has 422."),
        ("webhook", "500", Outcome.REJECTED, "becomes a dead letter at once: giveUpOn has 500."),
        ("webhook", "500", Outcome.REFUSED, "the receiver failed inside"),
        ("webhook", "599", Outcome.REFUSED, "the receiver failed inside"),
        ("webhook", "418", Outcome.REFUSED, "answered 418, which means that it did not take"),
        ("webhook", "303", Outcome.REFUSED, "the URL moved"),
        ("webhook", "dns", Outcome.UNREACHABLE, "The name hooks.example does not exist"),
        ("webhook", "refused", Outcome.UNREACHABLE, "hooks.example is up and refuses"),
        ("webhook", "what", Outcome.UNREACHABLE, "It was not delivered: the detail."),
        ("rabbitmq", "unroutable", Outcome.REJECTED, "bind one to the exchange"),
        ("rabbitmq", "404", Outcome.REFUSED, "It was not delivered: the detail."),
        ("nats", "no-stream", Outcome.REFUSED, "No JetStream stream takes this subject"),
        ("sqs", "AccessDenied", Outcome.REFUSED, "It was not delivered: the detail."),
    ],
)
def test_what_was_not_delivered_has_a_sentence(
    sink: str, code: str, outcome: Outcome, words: str
) -> None:
    told = {"server": "hooks.example:443"}

    assert words in verdict(sink, Attempt(outcome, code, "the detail"), told)


@pytest.mark.parametrize(
    ("certificate", "refused", "words"),
    [
        ({**NOW, "notAfter": "2024-05-06T07:08:09+00:00"}, "", "expired on 2024-05-06"),
        ({**NOW, "notBefore": "2119-05-06T07:08:09+00:00"}, "", "valid from 2119-05-06 on only"),
        (NOW, "Hostname mismatch, …", "for another host (a.example, b.example)"),
        (NOW, "self-signed certificate", "self-signed"),
        (NOW, "unable to get local issuer certificate", "unable to get local issuer"),
        (None, "it was not accepted", "not accepted: it was not accepted"),
        (None, "", "There is no TLS connection: the detail"),
    ],
)
def test_tls_that_fails_says_what_is_wrong_with_the_certificate(
    certificate: dict[str, Any] | None, refused: str, words: str
) -> None:
    told = {"tls": {"certificate": certificate, "refused": refused}}

    assert words in verdict("webhook", Attempt(Outcome.UNREACHABLE, "tls", "the detail"), told)
