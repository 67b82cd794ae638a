"""Which URLs are a queue's, and which are somebody else's host."""

from __future__ import annotations

import pytest

from evoflask.net.aws import NotAQueue, queue_fault, read_queue
from evoflask.settings import Settings

ACCOUNT = "123456789012"

GOOD = [
    (f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q", "eu-west-1"),
    (f"https://sqs.us-gov-east-1.amazonaws.com/{ACCOUNT}/A_b-9", "us-gov-east-1"),
    (f"https://sqs.eu-west-1.amazonaws.com:443/{ACCOUNT}/q", "eu-west-1"),
    (f"https://SQS.EU-WEST-1.amazonaws.com/{ACCOUNT}/q", "eu-west-1"),
    (f"https://sqs.cn-north-1.amazonaws.com.cn/{ACCOUNT}/q.fifo", "cn-north-1"),
    (f"https://sqs-fips.us-east-1.amazonaws.com/{ACCOUNT}/q", "us-east-1"),
    (f"https://sqs.ap-southeast-2.api.aws/{ACCOUNT}/q", "ap-southeast-2"),
    (f"https://sqs-fips.us-west-2.api.aws/{ACCOUNT}/q", "us-west-2"),
    (f"https://sqs.cn-north-1.api.amazonwebservices.com.cn/{ACCOUNT}/q", "cn-north-1"),
    (f"https://sqs.eusc-de-east-1.amazonaws.eu/{ACCOUNT}/q", "eusc-de-east-1"),
    (f"https://us-west-2.queue.amazonaws.com/{ACCOUNT}/q", "us-west-2"),
    (f"https://queue.amazonaws.com/{ACCOUNT}/q", "us-east-1"),
    (f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/{'n' * 80}", "eu-west-1"),
    (f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/{'n' * 75}.fifo", "eu-west-1"),
]

BAD = [
    f"http://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q",
    f"https://sqs.eu-west-1.amazonaws.com:8443/{ACCOUNT}/q",
    f"https://sqs.eu-west-1.amazonaws.com.evil.test/{ACCOUNT}/q",
    f"https://evil.test/sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q",
    f"https://sqs.eu-west-1.amazonaws.com@evil.test/{ACCOUNT}/q",
    f"https://evil.test#sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q",
    f"https://evil.test\\@sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q",
    f"https://xsqs.eu-west-1.amazonaws.com/{ACCOUNT}/q",
    f"https://sqs.eu-west-1xamazonaws.com/{ACCOUNT}/q",
    f"https://sqs.ec2.amazonaws.com/{ACCOUNT}/q",
    f"https://sqs.a.b.eu-west-1.amazonaws.com/{ACCOUNT}/q",
    f"https://mybucket.s3.amazonaws.com/{ACCOUNT}/q",
    f"https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/{ACCOUNT}/q",
    f"https://169.254.169.254/{ACCOUNT}/q",
    f"https://localhost/{ACCOUNT}/q",
    "https://sqs.eu-west-1.amazonaws.com/1/q",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/a/q",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q?x=1",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q#x",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q.fifo.fifo",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/.fifo",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/{'n' * 81}",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/{'n' * 76}.fifo",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/ü",
    f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q\n",
    "",
    "q",
]

OWN = "http://127.0.0.1:9324"


@pytest.mark.parametrize(("url", "region"), GOOD)
def test_a_queue_of_aws_is_taken_and_names_its_region(url: str, region: str) -> None:
    queue = read_queue(url)

    assert (queue.region, queue.fifo) == (region, url.endswith(".fifo"))
    assert queue.origin == url.lower().rpartition("/")[0].rpartition("/")[0].removesuffix(":443")


@pytest.mark.parametrize("url", BAD)
def test_whatever_could_lead_elsewhere_is_refused_in_a_sentence(url: str) -> None:
    assert (queue_fault(url) or "").endswith(".")
    assert queue_fault(url, OWN)


@pytest.mark.parametrize(
    "url", [f"{OWN}/{ACCOUNT}/q", f"{OWN}/queue/q.fifo", f"HTTP://127.0.0.1:9324/{ACCOUNT}/q"]
)
def test_a_server_of_ones_own_is_taken_only_where_the_operator_names_it(url: str) -> None:
    assert queue_fault(url, OWN) is None
    assert read_queue(url, OWN).region == ""
    assert queue_fault(url)
    assert queue_fault(url, "http://127.0.0.1:9325")


@pytest.mark.parametrize(
    "url",
    [
        f"https://127.0.0.1:9324/{ACCOUNT}/q",
        f"http://127.0.0.1/{ACCOUNT}/q",
        f"http://127.0.0.1:93240/{ACCOUNT}/q",
        f"http://127.0.0.1:9324@evil.test/{ACCOUNT}/q",
        f"http://127.0.0.1:9324/../{ACCOUNT}/q",
        "http://127.0.0.1:9324//q",
    ],
)
def test_nothing_but_exactly_its_origin_is(url: str) -> None:
    with pytest.raises(NotAQueue):
        read_queue(url, OWN)


def test_the_origin_is_the_same_with_and_without_its_usual_port() -> None:
    assert queue_fault(f"https://sqs.test/{ACCOUNT}/q", "https://sqs.test:443/") is None
    assert queue_fault(f"https://vpce.sqs.test:443/{ACCOUNT}/q", "https://VPCE.sqs.test") is None


def test_beside_a_vpc_endpoint_the_queues_keep_their_urls() -> None:
    url = f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/q"

    assert read_queue(url, "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com").region == "eu-west-1"


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({}, ""),
        ({"AWS_DEFAULT_REGION": "c"}, "c"),
        ({"AWS_DEFAULT_REGION": "c", "AWS_REGION": "b"}, "b"),
        ({"AWS_DEFAULT_REGION": "c", "AWS_REGION": "b", "SQS_REGION": "a"}, "a"),
    ],
)
def test_the_region_is_ours_or_that_of_every_aws_client(
    environ: dict[str, str], region: str
) -> None:
    assert Settings.from_env(environ).sqs_region == region
