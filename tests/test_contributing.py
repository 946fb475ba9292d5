"""What stands around the code is true: paths and commands of CONTRIBUTING.md, tasks, workflows and forms."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from conftest import ROOT

GITHUB = ROOT / ".github"
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
REQUEST = (GITHUB / "PULL_REQUEST_TEMPLATE.md").read_text()
WORKFLOW = (GITHUB / "workflows" / "test.yml").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
FLOORS = dict(re.findall(r"\b(torch|torchvision)>=([\d.]+)", " ".join(CONFIG["project"]["dependencies"])))
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def code(text: str) -> list[str]:
    """Everything in code marks, and each line of a code block without its comment."""
    blocks = re.findall(r"^```.*\n((?s:.*?))^```", text, flags=re.MULTILINE)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    outside = re.sub(r"^```.*\n(?s:.*?)^```", "", text, flags=re.MULTILINE)
    return [*lines, *re.findall(r"`([^`]+)`", outside)]


def paths(text: str) -> set[str]:
    """Words in code, and targets of links, that look like paths of the repository and hold no placeholder."""
    words = {word for line in code(text) for word in line.split()}
    words = {word for word in words if re.fullmatch(r"[\w./-]*\w/[\w./-]*|[\w-]+\.(?:md|toml|csv)", word)}
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    return {word for word in words | links if not word.startswith(".venv/") and not re.search(r"\b[A-Z_]+$", word)}


def missing(text: str) -> set[str]:
    """The paths that do not exist. A bare name may also be a file that boards have."""
    return {
        path
        for path in paths(text)
        if not (ROOT / path).exists() and ("/" in path or not any((ROOT / "leaderboards").glob(f"*/{path}")))
    }


def commands(text: str) -> set[tuple[str, ...]]:
    """`harness` with its words and options, as `("leaderboard build", "--add")`."""
    found = set()
    for line in code(text):
        if taken := re.match(r"harness((?: [a-z]+\b(?!/))+)(.*)", line):
            found.add((taken[1].strip(), *re.findall(r"--[a-z-]+", taken[2])))
    return found


def task(name: str) -> str:
    """The recipe of a task of the Makefile."""
    (recipe,) = re.findall(rf"^{name}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    return recipe


def dry_run(*arguments: str) -> str:
    return subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_paths_exist():
    expected = {"harness/", "tests/support/", "docs/records.md", "pyproject.toml", ".ci/run", "paper.csv"}
    assert expected | {".github/ISSUE_TEMPLATE/wrong-number.yml"} <= paths(GUIDE)
    assert missing(GUIDE) == missing(REQUEST) == set()


def test_a_planted_path_is_missed():
    planted = (
        "`harness/nowhere.py`, [a form](.github/none.yml), `gone.csv`\n```bash\npytest tests/nothing # tests/no\n```\n"
    )
    assert missing(planted) == {"harness/nowhere.py", ".github/none.yml", "gone.csv", "tests/nothing"}


def test_commands_of_the_harness_exist(cli):
    found = commands(GUIDE)
    assert {("bench", "--board"), ("leaderboard build", "--add"), ("check",), ("verify",)} <= found
    for command, *options in sorted(found):
        answer = cli.run(*command.split(), "--help")
        assert answer.returncode == 0, command
        assert set(options) <= set(answer.stdout.split()), command
    assert commands("`harness frobnicate --all`") == {("frobnicate", "--all")}
    assert cli.run("frobnicate", "--help").returncode != 0


def test_the_entry_point_that_is_shown_is_there():
    (line,) = [line for line in code(GUIDE) if re.fullmatch(r'\w+ = "\w+"', line)]
    assert line in (ROOT / "pyproject.toml").read_text().splitlines()


@needs_make
def test_tasks_exist():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tasks = {line.split("\t")[0] for line in listed.splitlines()}
    assert tasks == {"check", "tests", "tests-fast", "floor", "newest", "boards", "clean"}
    named = {name for line in code(GUIDE) for name in re.findall(r"^make ([\w-]+)", line)}
    assert {"check", "boards", "tests", "tests-fast", "floor", "newest"} <= named <= tasks


@needs_make
def test_the_floor_is_that_of_the_project():
    assert set(FLOORS) == {"torch", "torchvision"}
    pinned = re.findall(r"'([\w-]+)==([\d.]+)'", dry_run("floor"))
    assert dict(pinned) == {name: f"{version}.0" for name, version in FLOORS.items()}
    assert len(pinned) == len(FLOORS)


@needs_make
def test_clean_spares_an_environment_from_elsewhere():
    (line,) = [line for line in dry_run("clean", "VENV=/elsewhere").splitlines() if "rm -rf" in line]
    assert {".venv", ".venv-floor", ".venv-newest"} <= set(line.split())
    assert "/elsewhere" not in line


def test_the_workflow_runs_the_check_on_every_supported_python():
    (versions,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    minors = [int(version.removeprefix("3.")) for version in versions.replace('"', "").split(", ")]
    assert f">=3.{minors[0]}" == CONFIG["project"]["requires-python"]
    assert minors == list(range(minors[0], minors[0] + len(minors)))
    assert "- run: bash .ci/run\n" in WORKFLOW
    assert "- run: make floor\n" in WORKFLOW


def test_the_commit_hooks_are_the_tasks_check_and_boards():
    hooks = re.findall(r"entry: ([^,}]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    ran = re.findall(r"\$\(BIN\)/([\w-]+)", task("check") + task("boards"))
    assert [hook.split()[0] for hook in hooks] == ran


def test_forms_ask_for_what_is_needed():
    forms = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
    assert {form.stem for form in forms} == {"bug", "config", "proposal", "wrong-number"}
    wrong = (GITHUB / "ISSUE_TEMPLATE" / "wrong-number.yml").read_text()
    assert '"Wrong number"' in GUIDE
    assert {"cell", "seen", "expected", "record", "versions"} == set(re.findall(r"^    id: (\w+)", wrong, re.MULTILINE))


def test_everything_that_is_yaml_is_read():
    """PyYAML comes with robustbench, of the extra `all`."""
    yaml = pytest.importorskip("yaml")

    def read(path: Path) -> dict:
        return yaml.safe_load(path.read_text())

    workflow = read(GITHUB / "workflows" / "test.yml")
    assert set(workflow[True]) == {"pull_request", "push"}  # YAML 1.1 takes the word `on` for true
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["env"]["CI"] != "true"
    assert workflow["concurrency"]["cancel-in-progress"] is True
    assert workflow["jobs"]["check"]["strategy"]["fail-fast"] is False
    assert all(isinstance(one, str) for one in workflow["jobs"]["check"]["strategy"]["matrix"]["python"])
    assert {name: job["timeout-minutes"] for name, job in workflow["jobs"].items()} == {"check": 60, "floor": 60}

    for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml"):
        form = read(path)
        if path.stem == "config":
            assert set(form) <= {"blank_issues_enabled", "contact_links"}
            continue
        assert form["name"]
        assert form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
        assert all(field["type"] in {"input", "textarea"} and field["attributes"]["label"] for field in form["body"])

    repositories = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    assert {hook["language"] for hook in repositories[0]["hooks"]} == {"system"}
