"""What stands around the code is true: paths and commands of CONTRIBUTING.md, tasks, workflows and forms."""

import re
import shutil
import subprocess
import tomllib

import pytest

from conftest import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FLOORS = dict(re.findall(r"(torch|torchvision)>=([\d.]+)", " ".join(CONFIG["project"]["dependencies"])))


def named(pattern: str) -> set[str]:
    """Everything in code marks, or in a line of a code block, that matches."""
    return set(re.findall(pattern, GUIDE))


def test_paths_exist():
    paths = {path for path in named(r"`((?:\.?[\w-]+/)+[\w.-]*|[\w-]+\.(?:md|toml))`") if "<" not in path}
    assert {"harness/", "tests/support/", "docs/records.md", "pyproject.toml", ".ci/run"} <= paths | {".ci/run"}
    generated = {"board.toml", "paper.csv"}
    assert {path for path in paths - generated if not (ROOT / path).exists()} == set()


def test_commands_of_the_harness_exist(cli):
    commands = named(r"harness (bench|check|verify|leaderboard \w+|doctor|list|show)\b")
    assert len(commands) >= 5
    for command in sorted(commands):
        assert cli.run(*command.split(), "--help").returncode == 0, command


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_tasks_exist_and_take_the_floors_from_one_place():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tasks = {line.split("\t")[0] for line in listed.splitlines()}
    assert named(r"`make (\w+)`") <= tasks
    floor = subprocess.run(["make", "-n", "floor"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name, version in FLOORS.items():
        assert f"'{name}=={version}.0'" in floor


def test_the_workflow_runs_the_check_on_every_supported_python():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    (versions,) = re.findall(r"python: \[(.*)\]", text)
    first = CONFIG["project"]["requires-python"].removeprefix(">=")
    assert versions.replace('"', "").split(", ") == [first, "3.12", "3.13", "3.14"]
    assert "bash .ci/run" in text
    assert "make floor" in text


def test_the_commit_hooks_are_the_tasks_of_check():
    hooks = re.findall(r"entry: ([^,}]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    makefile = (ROOT / "Makefile").read_text()
    body = makefile[makefile.index("check:") : makefile.index("fast:")]
    assert [hook.split()[0] for hook in hooks] == re.findall(r"\$\(BIN\)/([\w-]+)", body)


def test_forms_ask_for_what_is_needed():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {form.stem for form in forms} == {"bug", "config", "proposal", "wrong-number"}
    wrong = (ROOT / ".github" / "ISSUE_TEMPLATE" / "wrong-number.yml").read_text()
    assert 'form "Wrong number"' in GUIDE
    assert {"cell", "seen", "expected", "record", "versions"} == set(re.findall(r"^    id: (\w+)", wrong, re.MULTILINE))
