"""The API against what its own documentation says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.system import fuzz

pytestmark = pytest.mark.slow  # alone: it has ten minutes


def test_every_answer_to_valid_and_hostile_requests_is_a_documented_one(tmp_path: Path) -> None:
    report = fuzz.run(tmp_path, seed=int.from_bytes(os.urandom(3)), examples=10)

    found = report.found
    print(report)
    assert found["exit_code"] == 0, report.output[-20_000:]
    assert found["test_cases"]["with_failures"] == found["test_cases"]["errored"] == 0
    assert report.defects == []
    assert found["operations"]["tested"] == found["operations"]["selected"] >= 52
    assert {told["status"] for told in found["phases"].values()} == {"success"}
    assert len(found["phases"]) == 4, found["phases"]  # examples, coverage, fuzzing, stateful
    assert found["test_cases"]["generated"] > 5_000
    assert report.seconds < fuzz.LIMIT
