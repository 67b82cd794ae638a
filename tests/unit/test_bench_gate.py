"""`make bench-check` notices what fell behind, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import CHECKS, RESULTS
from benchmarks.measures import GOALS, Run, behind, read


def saved(file: Path, **values: float) -> Path:
    run = Run(False, 1)
    for key, value in values.items():
        run.tell(key, value)
    run.save(file, {})
    return file


def found(file: Path, **values: list[float]) -> set[str]:
    run = Run(False, 1)
    for key, each in values.items():
        for value in each:
            run.tell(key, value)
    return set(behind(file, list(run.measures.values())))


@pytest.mark.parametrize(
    ("key", "before", "now", "fails"),
    [
        ("drain", 0.7, [0.7], False),
        ("drain", 0.7, [0.57], False),
        ("drain", 0.7, [0.55], True),
        ("drain", 0.7, [0.9, 0.5, 0.4], True),
        ("drain", 0.7, [0.5, 0.7, 0.9], False),
        ("drain", 0.7, [2.0], False),
        ("versus_axios_cpu", 0.5, [0.61], True),  # of this one, less is better
        ("versus_axios_cpu", 0.5, [0.3], False),
        ("lone_p50", 5.0, [50.0], False),  # a time is the machine's
    ],
)
def test_a_ratio_behind_by_more_than_a_fifth_fails(
    tmp_path: Path, key: str, before: float, now: list[float], fails: bool
) -> None:
    file = saved(tmp_path / "r.json", **{key: before})

    assert found(file, **{key: now}) == ({key} if fails else set())


def test_what_was_never_committed_is_nobodys_regression(tmp_path: Path) -> None:
    file = saved(tmp_path / "r.json", drain=0.7)

    assert found(file, nats=[0.01]) == set()


def test_other_sections_keep_what_they_said(tmp_path: Path) -> None:
    file = saved(tmp_path / "r.json", drain=0.7)
    saved(file, nats=0.4)

    _, measures, _ = read(file)

    assert {one.goal.key: one.median for one in measures} == {"drain": 0.7, "nats": 0.4}


def test_what_the_gate_measures_is_committed() -> None:
    _, measures, _ = read(RESULTS / "short.json")
    keys = {key for _, some in CHECKS.values() for key in some}

    assert keys <= {one.goal.key for one in measures}
    assert keys <= {goal.key for goal in GOALS if goal.gated}
