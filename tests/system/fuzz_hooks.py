"""What schemathesis cannot know."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

HOSTS = st.sampled_from(["example.com", "hooks.example.org:8443", "93.184.216.34"])
PATHS = st.from_regex(r"(/[a-zA-Z0-9._~%-]{0,20}){0,4}(\?[a-z]=[0-9]{0,5})?", fullmatch=True)

schemathesis.openapi.format(
    "uri",
    st.builds("{}://{}{}".format, st.sampled_from(["http", "https"]), HOSTS, PATHS),
)
schemathesis.openapi.format(
    "sqs-queue-url",
    st.from_regex(
        r"https://sqs\.eu-west-[1-3]\.amazonaws\.com/[0-9]{12}/[a-zA-Z0-9_-]{1,75}", fullmatch=True
    ),
)
