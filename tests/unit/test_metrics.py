"""The metrics, their manual, the dashboard and the alert rules: what one names, the others know."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from evoflask import metrics
from evoflask.metrics import Letters
from evoflask.outbox.totals import Totals
from evoflask.outbox.usage import Usage
from tests.conftest import missing

NAME = re.compile(r"evoflask_[a-z_]+")
SUFFIXES = ("_bucket", "_sum", "_count")


def told() -> dict[str, set[str]]:
    """Each metric that `/metrics` may tell of, and its labels, the histogram's own left out."""
    totals = Totals({"webhook:failed:refused": 1}, {}, Usage(1, 2))
    text = metrics.render(totals, ["webhook"], Letters({}, 0), {"ring": 1.0}, 0).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = {label for each in family.samples for label in each.labels} - {"le"}
    return found


def documented(root: Path) -> dict[str, set[str]]:
    rows = re.findall(r"^\| `(\w+)` \| ([a-z, ]*)\|", (root / "docs/metrics.md").read_text(), re.M)
    return {name: {each.strip() for each in labels.split(",")} - {""} for name, labels in rows}


def named_in(expressions: list[str]) -> set[str]:
    """Metrics by the name of their family."""
    found = {name for each in expressions for name in NAME.findall(each)}
    for suffix in SUFFIXES:
        found = {name.removesuffix(suffix) for name in found}
    return found


def test_the_manual_lists_each_metric_with_its_labels(root: Path) -> None:
    assert documented(root) == told()


def test_the_dashboard_asks_for_metrics_that_there_are(root: Path) -> None:
    board: Any = json.loads((root / "deploy/grafana/evoflask.json").read_text())
    targets = [target for panel in board["panels"] for target in panel["targets"]]

    named = named_in([target["expr"] for target in targets])

    assert named <= set(told())
    assert len(named) >= 15
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["description"] and panel["title"] for panel in board["panels"])
    places = [tuple(sorted(panel["gridPos"].items())) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert {target["datasource"]["uid"] for target in targets} == {"${DS_PROMETHEUS}"}


def test_each_metric_is_on_the_dashboard_or_in_an_alert(root: Path) -> None:
    asked = (root / "deploy/grafana/evoflask.json", root / "deploy/prometheus/alerts.yml")

    assert set(told()) <= named_in([each.read_text() for each in asked])


def test_the_alert_rules_watch_metrics_that_there_are_and_say_what_to_do(root: Path) -> None:
    text = (root / "deploy/prometheus/alerts.yml").read_text()
    rules = text.split("- alert: ")[1:]

    assert named_in(re.findall(r"^(?!\s*(?:summary|description|#)).*$", text, re.M)) <= set(told())
    for rule in rules:
        assert re.search(r"severity: (critical|warning|info)\}", rule), rule
        assert "summary: " in rule, rule
        assert "description: " in rule, rule


@pytest.mark.parametrize(
    "command", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_accepts_the_rules_and_their_tests(root: Path, command: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool is not installed: `scripts/prepare servers` installs prometheus.")
    assert promtool is not None

    said = subprocess.run(
        [promtool, *command],
        cwd=root / "deploy/prometheus",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("letters", [None, Letters({"webhook": 2}, 1)])
def test_promtool_finds_no_fault_in_what_metrics_tells(letters: Letters | None) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool is not installed: `scripts/prepare servers` installs prometheus.")
    assert promtool is not None
    totals = Totals({"webhook:failed:refused": 1, "accepted": 2}, {"webhook": 1.0}, Usage(1, 2), 3)
    text = metrics.render(totals, ["webhook", "nats"], letters, {"ring": 1.0})

    said = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )

    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")
