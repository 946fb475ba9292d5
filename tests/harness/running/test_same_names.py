"""Somebody's own networks and folders from end to end: what shares a name is told apart, and is verified or refused."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import harness
from harness.cli.compare import compare
from harness.cli.show import command as show
from harness.cli.verify import command as verify
from harness.errors import BoardMismatch, NothingSelected, UsageError
from harness.leaderboard import board
from harness.results.rows import rows
from harness.results.sources import find_row, read_records
from harness.running.outcome import Failure, Outcome
from harness.running.report import report_of
from harness.storage.schema import cell_records
from harness.types import CellState, Recipe, Subject
from support.records import record

NET = """
import torch
from torch import nn


class Bars(nn.Module):
    '''Right on every image of bars: class by mean brightness.'''

    def __init__(self, k, w):
        super().__init__()
        shares = [max(1, round((c + 1) / (k + 1) * w)) / w for c in range(k)]
        self.register_buffer("mu", 0.118 + 0.588 * torch.tensor(shares))

    def forward(self, x):
        return -400 * (x.mean(dim=(1, 2, 3)).unsqueeze(1) - self.mu) ** 2


def bars(shape, classes):
    return Bars(classes, shape[2])


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


def class_means(shift: float = 0.0) -> dict[str, torch.Tensor]:
    """Nearest class mean of digits as one linear layer; `shift` favors the higher classes."""
    images, labels = load_digits(return_X_y=True)
    means = torch.tensor(np.stack([images[labels == c].mean(0) for c in range(10)]) / 16).float()
    bias = -5 * (means * means).sum(1) + shift * torch.linspace(-1, 1, 10)
    return {"1.weight": 10 * means, "1.bias": bias}


def image_folder(root: Path, names: str, each: int = 30) -> None:
    """Make a folder for each class; of class c the left (c + 1) / (k + 1) is bright."""
    stream = np.random.default_rng(0)
    for c, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = stream.uniform(0, 60, (8, 8))
            pixels[:, : max(1, round((c + 1) / (len(names) + 1) * 8))] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with networks, weights and images; what is imported from it is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "net.py").write_text(NET)
    save_file(class_means(), folder / "good.safetensors")
    save_file(class_means(3.0), folder / "bad.safetensors")
    save_file(class_means(), folder / "renamed.safetensors")
    image_folder(folder / "da" / "val", "abcd")
    image_folder(folder / "db" / "val", "abc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        yield folder


def benched(place, function="build", **words) -> Path:
    """The folder of a run of one's own network."""
    words = {"attacks": "clean,fgsm", **words}
    return harness.bench(model=f"{place / 'net.py'}:{function}", output=place / "out", **words).path


@pytest.fixture(scope="module")
def good(place) -> Path:
    return benched(place, weights=place / "good.safetensors")


@pytest.fixture(scope="module")
def two_weights(place, good) -> Path:
    """A board of two rows whose networks one function builds."""
    board.build(place / "weights", [good, benched(place, weights=place / "bad.safetensors")])
    return place / "weights"


@pytest.fixture(scope="module")
def two_folders(place) -> Path:
    """A board of one network on two folders that are both called `val`."""
    runs = [benched(place, "bars", dataset=f"folder:{place / name / 'val'}") for name in ("da", "db")]
    board.build(place / "folders", runs)
    return place / "folders"


def test_two_folders_of_one_name_are_two_tables_without_ranks_across_them(two_folders, capsys):
    found = rows(read_records(two_folders))
    assert sorted(len(row.clean) for row in found) == [90, 120]
    assert all(set(row.clean) == {"1"} for row in found)
    table = (two_folders / "table.md").read_text()
    titles = re.findall(r"^## (folder:val \(sha [0-9a-f]{6}\)), linf:8/255$", table, re.MULTILINE)
    assert titles == sorted(f"folder:val (sha {row.data_sha256[:6]})" for row in found)
    printed = re.findall(r"^\| 1 \| ([^|]+) \|", table, re.MULTILINE)
    assert len(printed) == 2
    assert "| 2 |" not in table
    assert {find_row(name, two_folders).data_sha256 for name in printed} == {row.data_sha256 for row in found}
    with pytest.raises(NothingSelected, match=r"2 rows 'net\.bars': write one of: "):
        compare("net.bars", "net.bars", two_folders)
    with pytest.raises(NothingSelected, match="not measured on the same images"):
        compare(*printed, two_folders)


def test_two_weights_of_one_function_are_two_ranked_rows_that_are_compared(two_weights, capsys):
    names = "net.build (good)", "net.build (bad)"
    table = (two_weights / "table.md").read_text()
    assert re.findall(r"^\| (\d|[a-z ]+) \| (net[^|]+) \|", table, re.MULTILINE) == list(zip("12", names, strict=True))
    assert "training" not in table
    by_name = {name: {} for name in names}
    for found in cell_records(read_records(two_weights)):
        cells = by_name[found["identity"]["defense"]].setdefault(found["identity"]["attack"], [])
        cells += [c > b for c, b in zip(found["outcome"]["clean"], found["outcome"]["any"], strict=True)]
    compare(*names, two_weights)
    shown = capsys.readouterr().out
    difference = 100 * (np.mean(by_name[names[0]]["fgsm"]) - np.mean(by_name[names[1]]["fgsm"]))
    (line,) = [line for line in shown.splitlines() if "fgsm" in line]
    assert difference > 3
    assert f"{difference:+.1f} [" in line
    for name in names:
        with pytest.raises(NothingSelected, match=r"compared with itself.*It has: net.build .bad., net.build .good."):
            compare(name, name, two_weights)


def test_the_same_weights_under_another_name_are_the_same_row(place, good, two_weights):
    named = benched(place, weights=place / "renamed.safetensors", name="My net, again", attacks="pgd-10")
    renamed = benched(place, weights=place / "renamed.safetensors", attacks="clean")
    both = place / "both"
    board.build(both, [good, named, renamed])
    (row,) = rows(read_records(both))
    assert {cell.attack for cell in row.cells.values()} == {"clean", "fgsm", "pgd-10"}
    assert (row.name, row.also) == ("My-net-again", ("net.build (good)", "net.build (renamed)"))
    for name in (row.name, *row.also):
        assert find_row(name, both).key == row.key
    assert board.check(both) == len(read_records(both))


def test_a_name_is_of_a_network_of_ones_own_and_has_letters():
    with pytest.raises(UsageError, match="--name: goes with --model"):
        harness.bench("raw", name="mine")
    with pytest.raises(UsageError, match="--name ' , ': write letters and digits"):
        harness.bench(model=torch.nn.Flatten(), name=" , ")
    with pytest.raises(UsageError, match="'raw' is provided twice"):
        harness.bench(model=torch.nn.Flatten(), name="raw")


# ---- verify


def test_what_nobody_can_judge_again_is_no_success(good, capsys):
    with pytest.raises(NothingSelected, match=r"none of \d+ witnesses was judged again") as caught:
        verify(good, rescore=True)
    assert "give its --model" in str(caught.value)
    assert caught.value.exit_code == 5
    with pytest.raises(NothingSelected, match="none of the 4 shards"):
        verify(good, sample=2)
    verify(good)
    shown = capsys.readouterr().out
    assert "not judged again: net.build (good) is a network of somebody's own" in shown
    assert "judged again and agree" not in shown


def test_a_network_of_ones_own_is_rebuilt_and_judged_again(place, good, two_weights, capsys):
    given = {"model": f"{place / 'net.py'}:build", "weights": str(place / "good.safetensors")}
    verify(good, rescore=True, sample=2, **given)
    shown = capsys.readouterr().out
    number = re.search(r"(\d+) broken, (\d+) with a witness \(100.0 %\), (\d+) agree", shown)
    assert number
    assert len(set(number.groups())) == 1
    assert shown.count(": as recorded") == 2
    assert f"no problems: {number[1]} witnesses, {number[1]} judged again and agree" in shown


@pytest.mark.parametrize(
    ("weights", "edit", "message"),
    [
        ("bad", "", "weights_sha256 is [0-9a-f]{12}, records say"),
        ("good", "\n# edited\n", "is revision 1 of net.build@[0-9a-f]{12} here, records say"),
    ],
)
def test_another_network_than_that_of_the_records_is_a_mismatch(place, good, tmp_path, weights, edit, message):
    (tmp_path / "net.py").write_text(NET + edit)
    with pytest.raises(BoardMismatch, match=message):
        verify(good, rescore=True, model=f"{tmp_path / 'net.py'}:build", weights=str(place / f"{weights}.safetensors"))


PLUGIN = """
from pathlib import Path
from torch import nn
from harness.api import CheckpointError, Defense, hookimpl


def load(data):
    if Path(__file__).with_name("gone").exists():
        raise CheckpointError("its weights are not here")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@hookimpl
def harness_defenses():
    return [Defense(name="loaded", load=load)]
"""


def test_of_several_networks_those_that_cannot_be_had_are_told(place, capsys):
    plugin = place / "loaded_net.py"
    plugin.write_text(PLUGIN)
    model = f"{place / 'net.py'}:build"
    both = harness.bench("loaded", "fgsm", model=model, output=place / "out", limit=40, plugin=plugin).path
    with pytest.raises(NothingSelected, match=r"unknown defense 'loaded'.*\n.*is a network of somebody's own"):
        verify(both, rescore=True)
    with pytest.raises(typer.Exit) as caught:
        verify(both, rescore=True, plugin=[plugin])
    assert caught.value.exit_code == 3
    shown = capsys.readouterr()
    assert re.search(r"[1-9]\d* judged again and agree", shown.out)
    assert "1 not judged again\nnet.build, own, own, linf:1/5: net.build is a network of somebody's own" in shown.err
    verify(both, rescore=True, plugin=[plugin], model=model)
    assert capsys.readouterr().out.count(" agree\n") == 3
    (place / "gone").touch()
    with pytest.raises(NothingSelected, match=r"none of \d+ witnesses was judged again") as caught:
        verify(both, rescore=True, plugin=[plugin])
    assert "loaded, own, own, linf:1/5: its weights are not here" in str(caught.value)
    with pytest.raises(NothingSelected, match="none of the 1 shards that were drawn"):
        verify(both, sample=1, plugin=[plugin])


def test_images_of_a_folder_are_found_where_the_user_says(place, tmp_path, capsys):
    run = benched(place, "bars", dataset=f"folder:{place / 'da' / 'val'}", threat="linf:1/5")
    given = {"model": f"{place / 'net.py'}:bars", "rescore": True}
    with pytest.raises(BoardMismatch, match=r"records do not say where 'folder:val' is: give --dataset folder:PATH"):
        verify(run, **given)
    with pytest.raises(BoardMismatch, match="not those of the records"):
        verify(run, **given, dataset=f"folder:{place / 'db' / 'val'}")
    verify(run, **given, dataset=f"folder:{place / 'da' / 'val'}")
    assert re.search(r"no problems: ([1-9]\d*) witnesses, \1 judged again and agree", capsys.readouterr().out)


def test_rows_that_read_the_same_are_told_apart(two_folders, capsys):
    verify(two_folders)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("net.bars")]
    assert len(lines) == 2
    for row in rows(read_records(two_folders)):
        assert sum(row.data_sha256[:6] in line and row.weights_sha256[:8] in line for line in lines) == 1


def test_a_row_of_a_table_is_shown_as_its_defense(capsys):
    for name in ("aalp", "aalp[version=1] (seed 1)", "aalp (digits_net, quick)", "aalp on folder:val (sha 1a2b3c)"):
        show(name)
        assert capsys.readouterr().out.startswith("defense aalp\n")
    with pytest.raises(UsageError, match=r"'net\.build .good.' may be a row of a network of one's own"):
        show("net.build (good)")


# ---- a report over several runs

RECIPE = Recipe(name="quick", arch="net", epochs=1, batch=1, lr=0.1)


def outcome_of(*found, failed="", dataset="digits", seed=0):
    """A run of `aalp` with these records, and one failure."""
    subject = Subject(
        defense="aalp", defense_params={}, arch="net", arch_params={}, recipe=RECIPE,
        train_seed=seed,
    )  # fmt: skip
    failure = Failure(defense="aalp", attack=failed, threat="linf:1/5", state=CellState.FAILED, reason="x")
    lost = [failure] if failed else []
    sha256 = found[0]["identity"]["data_sha256"] if found else "d" * 64
    return Outcome(dataset=dataset, data_sha256=sha256, records=list(found), failures=lost, subjects=[subject])


def test_a_failure_hides_no_number_of_another_run():
    other = {"dataset": "other", "data_sha256": "e" * 64}
    runs = [
        outcome_of(record("fgsm")), outcome_of(record("pgd-10", **other), failed="fgsm", dataset="other"),
        outcome_of(record("fgsm", train_seed=1, weights_sha256="b" * 64), failed="pgd-10", seed=1),
    ]  # fmt: skip
    report = report_of(runs)
    table = report.table()
    by_name = {row.name: row for row in report.rows}
    assert set(by_name) == {"aalp on digits", "aalp on other", "aalp (seed 1) on digits"} == set(table.columns)
    assert table.loc[("digits", "linf:1/5", "fgsm"), "aalp on digits"].endswith("n=4")
    assert table.loc[("other", "linf:1/5", "fgsm"), "aalp on other"] == "failed"
    assert table.loc[("digits", "linf:1/5", "pgd-10"), "aalp on digits"] == "not run"
    assert table.loc[("digits", "linf:1/5", "pgd-10"), "aalp (seed 1) on digits"] == "failed"


def test_one_network_in_several_runs_is_one_row():
    report = report_of(
        [outcome_of(record("fgsm")), outcome_of(record("fgsm", threat="l2:1")), outcome_of(failed="bim")]
    )
    (row,) = report.rows
    assert {(cell.attack, cell.threat) for cell in row.cells.values()} == {("fgsm", "linf:1/5"), ("fgsm", "l2:1")}
    assert report.table().loc[("digits", "linf:1/5", "bim"), "aalp"] == "failed"
