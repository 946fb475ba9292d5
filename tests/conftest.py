"""Fixtures that several test files share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process for each core: more threads would only wait for each other. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
THIRD_PARTY = ROOT / "tests" / "third_party"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data, public weights and printed tables; without it tests skip, but never in CI."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{SHARED} is missing, and CI must not skip what needs it")
        pytest.skip("needs the folder ../shared")
    return SHARED


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every package of tests/third_party, built and installed into a folder of its own: name -> that folder."""
    folders = {}
    for package in sorted(THIRD_PARTY.iterdir()):
        target = tmp_path_factory.mktemp(package.name)
        command = [
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "--target",
            str(target),
        ]
        subprocess.run([sys.executable, "-m", *command, str(package)], check=True)
        folders[package.name] = target
    return folders


class Cli:
    """Runs `harness` in a process of its own, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def environment(self, plugins: tuple[Path, ...] = ()) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
        return {**keep, "PYTHONPATH": os.pathsep.join(map(str, plugins)), "NO_COLOR": "1"}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness", *arguments]

    def run(self, *arguments: str, plugins: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment(plugins), capture_output=True, text=True,
            check=False,
        )  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)
