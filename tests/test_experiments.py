"""EXPERIMENTS.md: every command is one, everything it names exists, and what is said to be measured is."""

import re
import shlex
from dataclasses import dataclass

import pytest
import typer

from conftest import ROOT
from harness.cli.main import app
from harness.errors import HarnessError
from harness.running.entry import prepare
from harness.running.lacking import NothingLacking

BOARDS = ROOT / "leaderboards"
TEXT = (BOARDS / "EXPERIMENTS.md").read_text()
HEADER = ["Item", "Command", "Board or report", "Measured"]
AT_HAND = {"digits", "mnist"}
"""The datasets whose numbers are committed."""


@dataclass(frozen=True)
class Line:
    """One line of a table: the item, the arguments of its command (none without one), where and whether."""

    item: str
    command: tuple[str, ...]
    place: str
    measured: str


def lines(text: str) -> list[Line]:
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, *rest = section.splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rest if line.startswith("|")]
        assert cells[0] == HEADER, title
        for item, command, place, measured in cells[2:]:
            if taken := re.fullmatch(r"`([^`]+)`", command):
                program, *arguments = shlex.split(taken[1])
                assert program == "harness"
            else:
                assert command.startswith("none: "), item
                arguments = []
            found.append(Line(f"{title}, {item}", tuple(arguments), place, measured))
    return found


LINES = lines(TEXT)


def bench(arguments: tuple[str, ...], output) -> dict | None:
    """The plans that a command makes, by the parser of the command line; None where nothing is left to run.

    Raises what the command would: a usage error, or an error of the harness.
    """
    assert arguments[0] == "bench"
    command = typer.main.get_command(app).commands["bench"]
    asked = dict(command.make_context("bench", list(arguments[1:])).params)
    if asked["board"]:
        given = [word for word in arguments if word == "--dataset"]
        asked |= {"dataset": asked["dataset"] if given else None, "board": BOARDS / asked["board"]}
    wanted = {name: value for name, value in asked.items() if name != "progress"} | {"output": output}
    try:
        return prepare(**{**wanted, "model": asked["model"] or None}).plans
    except NothingLacking:
        return None


def state(line: Line, output) -> str:
    """What a line should say: `measured` where its command has nothing left to run, else on which datasets."""
    if not line.command:
        return "none"
    try:
        plans = bench(line.command, output)
    except HarnessError as error:
        return f"error: {error}"
    if plans is None:
        return "measured"
    return "lacks " + ", ".join(sorted({plan.dataset.name for plan in plans}))


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.item[:70])
def test_commands_name_what_exists_and_what_is_measured_is(line, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = state(line, tmp_path)
    if line.measured == "measured":
        assert found == "measured"
        if line.command[:-1] == ("bench", "--board"):
            assert "No record of" not in (BOARDS / line.command[-1] / "table.md").read_text()
    elif line.measured == "not measured: data":
        assert found.startswith("lacks ")
        assert not AT_HAND & set(found.removeprefix("lacks ").split(", ")), "digits and MNIST can be measured"
    else:
        assert re.fullmatch(r"not measured: \w.*", line.measured)
        assert found == "none" or found.startswith("lacks ")


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.item[:70])
def test_the_board_is_there_or_it_is_a_run_of_its_own(line):
    name = re.split(r"[,:] ", line.place)[0]
    assert name == "its run" or (BOARDS / name / "board.toml").exists()
    if "--board" in line.command:
        assert line.command[line.command.index("--board") + 1] == name
    named = re.findall(r"`([^`]+)`", line.place)
    if named:
        toml = (BOARDS / name / "board.toml").read_text()
        assert all(f'"{one}' in toml for one in named), "rows or analyses of that board"


def test_every_board_of_a_paper_and_every_analysis_of_figures_has_a_line():
    boards = {path.parent.name for path in BOARDS.glob("*/board.toml") if 'kind = "paper"' in path.read_text()}
    assert boards <= {re.split(r"[,:] ", line.place)[0] for line in LINES}
    from harness.registry.discovery import discover
    from harness.types import Analysis

    figures = {one.spec.name for one in discover().entries(Analysis) if "figures" in one.spec.groups}
    assert {"feature_contribution", "feature_distances"} <= figures
    assert {name for name in figures if name not in TEXT} <= {"overfitting_course"}


def test_every_figure_and_table_of_the_papers_has_a_line():
    """AALP has 12 figures, of which the fifth is a diagram; the tables are those of ../shared/papers."""
    aalp = " ".join(line.item for line in LINES if line.item.startswith("AALP"))
    figures = {
        int(number) for found in re.findall(r"fig\. (\d+(?: and \d+)*)", aalp) for number in found.split(" and ")
    }
    assert figures == set(range(1, 13)) - {5}
    tables = {(version, int(number)) for version, number in re.findall(r"(v[12]) table (\d)", aalp)}
    assert tables == {("v1", n) for n in range(1, 7)} | {("v2", n) for n in range(1, 5)}


PLANTED = """## A

| Item | Command | Board or report | Measured |
| --- | --- | --- | --- |
| option | `harness bench --bord digits-linf` | digits-linf | measured |
| board | `harness bench --board digits-l0` | digits-l0 | measured |
| analysis | `harness bench -d raw --analyses feature_count` | its run | measured |
| defense | `harness bench -d rwa` | its run | measured |
| lacking | `harness bench -d raw --analyses cost` | its run | measured |
"""


def test_planted_faults_are_found(tmp_path):
    option, board, analysis, defense, lacking = lines(PLANTED)
    with pytest.raises(typer.BadParameter.__mro__[1]):
        state(option, tmp_path)
    assert "digits-l0" in state(board, tmp_path)
    assert state(analysis, tmp_path).startswith("error: unknown analysis 'feature_count'")
    assert state(defense, tmp_path).startswith("error: unknown defense 'rwa'")
    assert state(lacking, tmp_path) == "lacks digits"
