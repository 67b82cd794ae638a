"""What cannot be run here is looked at by those who know: linters with the makers' own schemas.
That the same commands, users and settings stand in all of it, we look at ourselves."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from evoflask.settings import Settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
UNITS = sorted((ROOT / "deploy/systemd").iterdir())
KUBERNETES = yaml.safe_load((ROOT / "deploy/kubernetes/evoflask.yaml").read_text())["items"]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
OURS = {"release", "web", "worker", "clock"}


def say(*command: str | Path) -> str:
    """What a linter says, "" for nothing; its status counts too."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )
    return (done.stdout + done.stderr).strip() or (f"status {done.returncode}" * done.returncode)


def procfile() -> dict[str, list[str]]:
    """The commands that everything else must start as well."""
    lines = (line.partition(": exec ") for line in (ROOT / "Procfile").read_text().splitlines())
    return {name: shlex.split(command) for name, _, command in lines}


def containers() -> dict[str, dict[str, Any]]:
    """The example's containers by the name of what they run."""
    specs = [item.get("spec", {}) for item in KUBERNETES]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]
    return {each["name"]: each | {"pod": pod} for pod in pods for each in pod["containers"]}


def test_the_dockerfile_is_clean() -> None:
    assert say(BIN / "hadolint", ROOT / "Dockerfile") == ""


def test_the_dockerfiles_linter_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python\nRUN cd /tmp\n")

    assert "DL3006" in say(BIN / "hadolint", wrong)


def test_compose_is_of_its_specification(tmp_path: Path) -> None:
    check = (BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((ROOT / "compose.yaml").read_text().replace("read_only:", "readonly:"))

    assert say(*check, ROOT / "compose.yaml") == "ok -- validation done"
    assert "readonly" in say(*check, wrong)


@pytest.mark.parametrize("item", KUBERNETES, ids=lambda item: item["metadata"]["name"])
def test_kubernetes_takes_it(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            item | {"misspelt": 1}, kubernetes_validate.latest_version(), strict=True
        )


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:  # it looks whether the commands are there
        text = unit.read_text().replace("/opt/evoflask/.venv/bin", str(BIN))
        (tmp_path / unit.name).write_text(text)
    wrong = tmp_path / "wrong.service"

    assert say("systemd-analyze", "verify", *sorted(tmp_path.iterdir())) == ""
    wrong.write_text("[Service]\nExecStart=/bin/true\nRestrt=always\n")
    assert "Restrt" in say("systemd-analyze", "verify", wrong)


@pytest.mark.parametrize("name", sorted(OURS))
def test_everything_starts_what_the_procfile_starts(name: str) -> None:
    command = procfile()[name]

    assert COMPOSE["services"][name]["command"] == command
    assert containers()[name]["command"] == command
    unit = next(unit for unit in UNITS if unit.name.startswith(f"evoflask-{name}"))
    started = re.search(r"^ExecStart=/opt/evoflask/\.venv/bin/(.*)$", unit.read_text(), re.M)
    assert started is not None
    assert started.group(1).split() == command


def test_the_image_starts_the_web_process() -> None:
    command = (ROOT / "Dockerfile").read_text().partition("\nCMD ")[2]

    assert yaml.safe_load(command) == procfile()["web"]


def test_nothing_runs_as_root_or_writes_beside_its_home() -> None:
    image = (ROOT / "Dockerfile").read_text()

    assert "\nUSER 10001:10001\n" in image.rpartition("\nFROM ")[2]
    for name in OURS:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        inside = containers()[name]
        assert inside["pod"]["securityContext"]["runAsNonRoot"] is True
        assert inside["securityContext"]["readOnlyRootFilesystem"] is True
        assert inside["securityContext"]["allowPrivilegeEscalation"] is False
    for unit in UNITS:
        if unit.suffix == ".service":
            assert {"User=evoflask", "ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(
                unit.read_text().splitlines()
            )


def test_every_variable_that_is_set_is_a_setting() -> None:
    of_others = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
    known = {field.metadata["about"].env for field in dataclasses.fields(Settings)}
    config = next(item for item in KUBERNETES if item["kind"] == "ConfigMap")
    image = re.findall(r"^(?:ENV|   ) ([A-Z_]+)=", (ROOT / "Dockerfile").read_text(), re.M)
    units = [
        word.partition("=")[0]
        for unit in UNITS
        for line in re.findall(r"^Environment=(.*)$", unit.read_text(), re.M)
        for word in line.split()
    ]

    said = {*config["data"], *COMPOSE["x-evoflask"]["environment"], *image, *units}

    assert said - of_others <= known
    assert {"EVOFLASK_HOME", "DATABASE_URL", "LOG_FORMAT"} <= said


@pytest.mark.parametrize("name", sorted(OURS))
def test_compose_passes_every_variable_of_the_env_file(name: str) -> None:
    service = COMPOSE["services"][name]
    fixed = {"PORT", "WEB_HOST", "EVOFLASK_HOME", "HEARTBEAT_FILE"}

    overridden = {
        variable
        for variable, value in service["environment"].items()
        if not str(value).startswith(f"${{{variable}:")
    }

    assert service["env_file"] == ".env"
    assert overridden <= fixed
    assert str(COMPOSE["services"]["web"]["environment"]["PORT"]) == "8080"


def test_compose_holds_no_secret() -> None:
    text = (ROOT / "compose.yaml").read_text()
    example = (ROOT / "deploy/compose.env.example").read_text()

    asked_for = set(re.findall(r"\$\{([A-Z_]+)", text))

    assert asked_for == set(re.findall(r"^([A-Z_]+)=$", example, re.M))


def locked() -> dict[str, list[str]]:
    """The lock: each `name==version` and its hashes."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if named := re.match(r"([\w.-]+==[\w.]+)", line):
            found[named.group(1)] = current = []
        elif digest := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
            current.append(digest.group(1))
    return found


def test_the_lock_is_of_what_is_pinned() -> None:
    pinned = set()
    for name in ("requirements.txt", "requirements-otel.txt"):
        pinned |= set(re.findall(r"^([\w.\[\]-]+==[\w.]+)", (ROOT / name).read_text(), re.M))
    pinned = {re.sub(r"\[.*\]", "", each).lower() for each in pinned}

    assert pinned <= {each.lower() for each in locked()}
    assert all(locked().values())


def test_the_lock_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text()

    assert "://" not in text
    assert "index" not in text


def test_every_test_that_the_threats_name_is_there() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (ROOT / "SECURITY.md").read_text()))

    assert len(named) > 15
    assert [each for each in sorted(named) if not (ROOT / each).is_file()] == []
