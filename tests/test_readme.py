"""The README is true: its tutorial runs, its table is the committed board's, its public modules are the contract's."""

import re
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(info):
    """The bodies of the fenced blocks whose info string matches."""
    return re.findall(rf"^```{info}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_tutorial_runs_as_printed(cli):
    for name, body in re.findall(r"^```python file=(\S+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL):
        (cli.folder / name).write_text(body)
    commands = [line for body in blocks("bash run") for line in body.splitlines()]
    assert len(commands) >= 4
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "harness"
        ran = cli.run(*arguments)
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"


def test_the_table_is_what_the_committed_records_say():
    import io

    from rich.console import Console

    from harness.cli.result import tables
    from harness.results.rows import rows
    from harness.storage.records import read_compacted

    (printed,) = blocks("text table")
    found = [
        r for r in rows(read_compacted(ROOT / "leaderboards/digits-linf/records.jsonl")) if r.defense in ("aalp", "raw")
    ]
    console = Console(file=io.StringIO(), width=130, highlight=False, markup=False)
    for table in tables(found, {}):
        console.print(table)
    assert [line.rstrip() for line in printed.splitlines()] == [
        line.rstrip() for line in console.file.getvalue().splitlines()
    ]


@pytest.mark.slow
def test_the_python_block_runs_in_a_fresh_interpreter(cli):
    (body,) = blocks("python run")
    ran = subprocess.run(
        [sys.executable, "-c", body], cwd=cli.folder, env=cli.environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "pgd-10" in ran.stdout
    assert "linf:1/5" in ran.stdout


def test_aalp_stands_where_raw_falls():
    """The claim of the first table: the lower bound of AALP's worst case is above the upper bound of raw's."""
    from harness.results.rows import rows
    from harness.results.stats import wilson
    from harness.storage.records import read_compacted

    found = {row.defense: row for row in rows(read_compacted(ROOT / "leaderboards/digits-linf/records.jsonl"))}
    low, high = (found[name].worst("linf:1/5") for name in ("aalp", "raw"))
    assert wilson(low.count("1"), len(low))[0] > wilson(high.count("1"), len(high))[1]
