"""Boards from their definition: printed beside measured, verdicts, what is missing, and what a changed digit does."""

import csv
import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import BoardMismatch, NothingSelected, StoreError, UsageError
from harness.leaderboard import board as boards
from harness.leaderboard import definition as definitions
from harness.leaderboard.changes import changes, changes_markdown
from harness.leaderboard.comparison import compare
from harness.leaderboard.missing import lacking, requests
from harness.leaderboard.printed import read as read_printed
from harness.planning.plan import plan
from harness.planning.request import Request
from harness.results.rows import rows
from harness.storage import records
from support.plugins import toy_registry
from support.records import record, record_of

TOML = """
title = "A table"
kind = "paper"
dataset = "digits"
arch = "net"
recipe = "quick"
threat = "linf:1/5"
reading = "raw"
tolerance = 2.0

[paper]
name = "P"
arch = "net"
recipe = "quick"
threat = "linf:1/5"
n = 4

[[rows]]
label = "Nothing"
printed = "none"

[[rows]]
label = "Ours"
printed = "ours"
defense = "aalp"

[[columns]]
label = "Clean"
printed = "clean"
attack = "clean"

[[columns]]
label = "PGD10"
printed = "pgd10"
attack = "pgd-10"

[[columns]]
label = "CW"
printed = "cw"
attack = "cw_inf-10"
protocol = "kappa is not stated"
"""
HEAD = "paper,table,dataset,architecture,defense,attack,metric,value,unit,note\n"
PAPER = HEAD + (
    "P,1,digits,net,ours,clean,accuracy,0.99,fraction,\n"
    "P,1,digits,net,ours,pgd10,accuracy,51.00,percent,\n"
    "Q,1,digits,net,ours,pgd10,accuracy,60.00,percent,\n"
    "P,1,digits,net,ours,cw,accuracy,20.0,percent,\n"
    "P,1,digits,net,none,pgd10,accuracy,3.00,percent,\n"
)


def make(folder: Path, *found, toml=TOML, paper=PAPER) -> Path:
    board = folder / "board"
    board.mkdir(parents=True)
    (board / "board.toml").write_text(toml)
    (board / "paper.csv").write_text(paper)
    (board / "records.jsonl").write_bytes(records.compact(found))
    boards.build(board)
    return board


def cells(board: Path):
    definition = definitions.read(board)
    measured = rows(records.read_compacted(board / "records.jsonl"))
    return {
        (cell.row.label, cell.column.label): cell
        for line in compare(definition, read_printed(board), measured)
        for cell in line
    }


def compared(toml, paper, *found):
    """The cells of the row `Ours`, by their columns."""
    with tempfile.TemporaryDirectory() as folder:
        found = cells(make(Path(folder), *found, toml=toml, paper=paper))
    return {column: cell for (row, column), cell in found.items() if row == "Ours"}


def test_measured_beside_printed_with_difference_and_verdict(tmp_path):
    clean = record("clean", threat="none", raw="1110")
    board = make(tmp_path, clean, record("pgd-10", raw="1100"), record("cw_inf-10", raw="0001"))
    found = cells(board)
    pgd = found["Ours", "PGD10"]
    assert (pgd.measured.value, pgd.printed.value, pgd.difference, pgd.verdict) == (50.0, 51.0, -1.0, "reproduced")
    assert [other.text for other in pgd.others] == ["60.00"], "what another version prints is shown"
    assert found["Ours", "Clean"].printed.value == 99.0, "fractions are compared in per cent"
    assert found["Ours", "CW"].in_words == "different setting (protocol)"
    assert found["Ours", "CW"].difference == 5.0, "the difference is printed all the same"
    nothing = found["Nothing", "PGD10"]
    assert (nothing.measured, nothing.verdict, nothing.printed.text) == (None, "not measured", "3.00")
    assert found["Nothing", "Clean"].printed is None


def test_the_csv_has_the_papers_rows_and_columns(tmp_path):
    board = make(tmp_path, record("pgd-10", raw="1100"))
    lines = list(csv.DictReader(io.StringIO((board / "table.csv").read_text())))
    assert [line["row"] for line in lines] == ["Nothing", "Ours"]
    labels = [name.removesuffix(" printed") for name in lines[0] if name.endswith(" printed")]
    assert labels == ["Clean", "PGD10", "CW"]
    assert (lines[1]["PGD10 printed"], lines[1]["PGD10 measured"]) == ("51.00", "50.00")
    assert (lines[0]["PGD10 measured"], lines[0]["PGD10 verdict"]) == ("", "not measured")
    assert lines[1]["PGD10 other version"] == "60.00 (Q)"


def test_a_table_says_which_settings_are_ours(tmp_path):
    toml = TOML.replace('kind = "paper"', 'kind = "paper"\nours = ["epochs", "batch"]')
    found = make(tmp_path / "said", record("pgd-10"), toml=toml) / "table.md"
    assert "\nOurs, as no source states it: epochs, batch.\n" in found.read_text()
    assert "Ours, as" not in (make(tmp_path / "silent", record("pgd-10")) / "table.md").read_text()


def test_far_from_printed_differs_only_outside_interval_and_tolerance(tmp_path):
    # 0 of 4: the Wilson interval ends at 49.0 %, the tolerance at 2 points: 51 lies outside both.
    board = make(tmp_path, record("pgd-10", raw="0000"))
    assert cells(board)["Ours", "PGD10"].verdict == "differs"


@pytest.mark.parametrize(
    ("line", "changed", "reason"),
    [
        ("n = 4", "n = 10000", "n"),
        ('[paper]\nname = "P"\narch = "net"', '[paper]\nname = "P"\narch = "wide"', "network"),
        ('recipe = "quick"\nthreat = "linf:1/5"\nn', 'recipe = "long"\nthreat = "linf:1/5"\nn', "recipe"),
        ('threat = "linf:1/5"\nn = 4', 'threat = "linf:1/4"\nn = 4', "eps"),
    ],
)  # fmt: skip
def test_another_setting_is_named(tmp_path, line, changed, reason):
    assert TOML.count(line) == 1
    board = make(tmp_path, record("pgd-10", raw="1100"), toml=TOML.replace(line, changed))
    assert cells(board)["Ours", "PGD10"].in_words == f"different setting ({reason})"


def test_readings_differ(tmp_path):
    # Clean right on three; the last image is wrong on the clean image and right on the returned one.
    measured = record("pgd-10", clean="1110", raw="1101", last="0010", any_="0110")
    values = {}
    for reading in definitions.READINGS:
        folder = tmp_path / reading
        folder.mkdir()
        board = make(folder, measured, toml=TOML.replace('reading = "raw"', f'reading = "{reading}"'))
        values[reading] = cells(board)["Ours", "PGD10"].measured.value
    assert values == {"raw": 75.0, "last": 50.0, "robust": 25.0}


def test_a_changed_digit_is_found_and_named(tmp_path):
    board = make(tmp_path, record("pgd-10", raw="1100"))
    assert boards.check(board) == 1
    for name, old, new in (
        ("table.csv", "50.00", "51.00"),
        ("table.md", "**50.00**", "**59.00**"),
        ("paper.csv", "51.00", "51.01"),
        ("records.jsonl", '"raw":"1100"', '"raw":"1110"'),
    ):
        path = board / name
        kept = path.read_text()
        assert kept.count(old) >= 1
        path.write_text(kept.replace(old, new, 1))
        with pytest.raises((BoardMismatch, StoreError)) as error:
            boards.check(board)
        assert "PGD10" in str(error.value), f"{name}: {error.value}"
        assert "Ours" in str(error.value), f"{name}: {error.value}"
        path.write_text(kept)
    assert boards.check(board) == 1


def test_a_changed_identity_is_found(tmp_path):
    board = make(tmp_path, record("pgd-10", raw="1100"))
    path = board / "records.jsonl"
    path.write_text(path.read_text().replace('"seed":0', '"seed":1', 1))
    with pytest.raises(StoreError, match=r"records.jsonl:1: its key is not that of its identity"):
        boards.check(board)


def test_missing_cells_become_the_fewest_requests(tmp_path):
    board = make(tmp_path, record("pgd-10", raw="1100"))
    measured = rows(records.read_compacted(board / "records.jsonl"))
    (request,) = requests(definitions.read(board), measured)
    assert (request.defenses, tuple(request.attacks)) == (["aalp"], ("clean", "cw_inf-10"))
    assert (request.dataset, request.arch, request.recipe, request.limit) == ("digits", "net", "quick", None)
    assert tuple(request.threats) == ("linf:1/5",)


def test_the_rows_of_one_dataset_can_be_asked_for_alone(tmp_path):
    other = '\n[[rows]]\nlabel = "Elsewhere"\ndefense = "raw"\ndataset = "mnist"\n'
    found = definitions.read(make(tmp_path, toml=TOML + other))
    assert [request.dataset for request in requests(found, [])] == ["digits", "mnist"]
    assert [request.dataset for request in requests(found, [], ["mnist"])] == ["mnist"]
    column = '\n[[columns]]\nlabel = "There"\nattack = "fgsm"\ndataset = "svhn"\n'
    (tmp_path / "column").mkdir()
    there = definitions.read(make(tmp_path / "column", toml=TOML + other + column))
    assert {request.dataset for request in requests(there, [], ["svhn"])} == {"svhn"}
    with pytest.raises(NothingSelected, match="no row on svhn; it has: digits, mnist"):
        requests(found, [], ["svhn"])


def test_a_complete_board_asks_for_nothing(tmp_path):
    board = make(tmp_path, record("clean", threat="none"), record("pgd-10"), record("cw_inf-10"))
    measured = rows(records.read_compacted(board / "records.jsonl"))
    assert requests(definitions.read(board), measured) == []


SEEDS = TOML.replace('defense = "aalp"', 'defense = "aalp"\ntrain_seeds = [2, 0, 1]')
RANKED = SEEDS.partition("[[columns]]")[0].replace('kind = "paper"', 'kind = "ranked"\nattacks = ["pgd-10"]')
THREE = [
    record("pgd-10", raw=raw, train_seed=seed, weights_sha256=str(seed) * 64)
    for seed, raw in enumerate(["1000", "1111", "1100"])
]


def test_the_number_is_that_of_the_first_training_with_the_range_over_all(tmp_path):
    board = make(tmp_path, *THREE, toml=SEEDS)
    cell = cells(board)["Ours", "PGD10"]
    assert cell.measured.value == 50
    assert sorted(cell.measured.over_seeds) == [25, 50, 100]
    assert cell.verdict == "reproduced", "the first training's"
    assert "**50.00** [15.00, 85.00] n=4, 25.00 to 100.00 over 3 trainings" in (board / "table.md").read_text()
    lines = {line["row"]: line for line in csv.DictReader((board / "table.csv").read_text().splitlines())}
    told = [lines["Ours"][f"PGD10 {part}"] for part in ("measured", "seeds low", "seeds high", "trainings")]
    assert told == ["50.00", "25.00", "100.00", "3"]
    assert lines["Nothing"]["PGD10 trainings"] == ""
    some = make(tmp_path / "two", *THREE[1:], toml=SEEDS)
    assert "n=4, 50.00 to 100.00 over 2 of 3 trainings" in (some / "table.md").read_text()


def test_each_training_that_is_missing_is_asked_for(tmp_path):
    board = make(tmp_path, *THREE[:2], toml=SEEDS)
    measured = rows(records.read_compacted(board / "records.jsonl"))
    found = requests(definitions.read(board), measured)
    assert {(request.train_seed, tuple(request.attacks)) for request in found} == {
        (2, ("clean", "pgd-10", "cw_inf-10")), (0, ("clean", "cw_inf-10")), (1, ("clean", "cw_inf-10")),
    }  # fmt: skip
    (board / "board.toml").write_text(RANKED)
    found = requests(definitions.read(board), measured)
    assert [(request.train_seed, request.attacks) for request in found] == [(seed, ("pgd-10",)) for seed in (2, 0, 1)]


def test_nothing_is_done_for_subjects_that_a_board_has_whole():
    """Toys under two attacks: one subject has both, one lacks an attack, one has too few images."""
    registry = toy_registry()
    asked = Request(defenses=["plain", "robust", "robust[mix=0.5]"], attacks=["unchanged", "one_step"], dataset="toy")
    whole = plan(asked, registry)
    threats = {cell.attack: str(cell.threat) for cell in whole.cells}

    def of(defense, attack, n=4):
        bits = "1" * n
        return record(
            attack, defense, threats[attack], span=(0, n), clean=bits, raw=bits, last=bits, any_=bits, dataset="toy",
            arch="tiny", recipe="toy", weights_sha256=str(hash(defense)),
        )  # fmt: skip

    measured = rows([
        of("plain", "unchanged"), of("plain", "one_step"), of("robust", "unchanged"),
        of("robust[mix=0.5]", "unchanged"), of("robust[mix=0.5]", "one_step", n=3),
    ])  # fmt: skip
    left = lacking(whole, measured)
    assert [subject.defense for subject in left.subjects] == ["robust", "robust[mix=0.5]"]
    assert {cell.subject.defense for cell in left.cells} == {"robust", "robust[mix=0.5]"}
    limited = lacking(plan(replace(asked, limit=3), registry), measured)
    assert [subject.defense for subject in limited.subjects] == ["robust"]
    assert lacking(plan(replace(asked, defenses=["plain"]), registry), measured).groups == []


def test_a_ranked_board_names_the_settings_it_lacks(tmp_path):
    other = '\n[[rows]]\nlabel = "At a tenth"\ndefense = "aalp"\nthreat = "linf:1/10"\n'
    board = make(tmp_path, *THREE[:2], toml=RANKED + other)
    table = (board / "table.md").read_text()
    assert "No record of: Nothing; Ours (training seed 2); At a tenth." in table


@pytest.mark.parametrize("text", ["linf:1/5", "linf:0.2", "linf"])
def test_a_budget_may_be_written_in_any_way(tmp_path, text):
    toml = RANKED.replace('threat = "linf:1/5"', f'threat = "{text}"', 1).replace("[2, 0, 1]", "[0]")
    assert "No record of: Nothing." in (make(tmp_path, THREE[0], toml=toml) / "table.md").read_text()


def test_a_board_without_records_says_so_in_every_cell(tmp_path):
    board = make(tmp_path)
    assert {cell.verdict for cell in cells(board).values()} == {"not measured"}
    assert boards.check(board) == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind = "paper"', 'kind = "papers"', "must be paper or ranked"),
        ('reading = "raw"', 'reading = "best"', "must be one of robust, last, raw"),
        ('attack = "pgd-10"', 'atack = "pgd-10"', "column 2.*atack"),
        ('label = "CW"', 'label = "Clean"', "'Clean' stands twice"),
        ('title = "A table"', 'title = "A table', "board.toml"),
        ('title = "A table"', 'title = "A table"\ntrain_seeds = []', r"train_seeds = \[\] must be a list"),
        ('title = "A table"', 'title = "A table"\ntrain_seeds = [0, 0]', "must be a list of different numbers"),
        ('title = "A table"', 'title = "A table"\ntrain_seeds = [-1]', "must be a list of different numbers"),
        ('defense = "aalp"', 'defense = "aalp"\ntrain_seeds = ["0"]', "row 2: train_seeds"),
    ],
)
def test_a_definition_that_cannot_be_read_says_where(tmp_path, old, new, words):
    with pytest.raises(UsageError, match=words):
        make(tmp_path, toml=TOML.replace(old, new, 1))


def test_a_printed_value_that_is_no_number_says_where(tmp_path):
    with pytest.raises(StoreError, match=r"paper.csv, line 3: 'n/a' is no number"):
        make(tmp_path, paper=PAPER.replace("51.00", "n/a"))


def test_exports(tmp_path):
    again = record("aa_standard", any_="0000", train_seed=1, weights_sha256="b" * 64)
    board = make(tmp_path, record("pgd-10", raw="1100"), record("aa_standard", any_="0111"), again)
    latex = boards.export(board, "latex")
    assert r"Ours & not measured (0.99) & 50.00 (51.00) & not measured (20.0) \\" in latex
    info = json.loads(boards.export(board, "robustbench"))["digits/linf:1/5/aalp/net/quick"]
    assert (info["autoattack_acc"], info["clean_acc"], info["eps"]) == ("25.00", "100.00", "0.2")
    assert boards.export(board, "csv") == (board / "table.csv").read_text()


def test_robustbench_needs_autoattack(tmp_path):
    with pytest.raises(NothingSelected, match="aa_standard"):
        boards.export(make(tmp_path, record("pgd-10")), "robustbench")


def test_changes_name_what_moved_and_what_is_gone():
    old = rows([record("pgd-10", any_="0000"), record("fgsm", any_="0000")])
    new = rows([record("pgd-10", any_="1111"), record("bim", any_="0001")])
    found = {(change.attack, change.verdict) for change in changes(old, new)}
    assert found == {
        ("pgd-10", "outside the interval"), ("fgsm", "missing"), ("bim", "added"),
        ("worst case", "outside the interval"),
    }  # fmt: skip
    assert "3 of them missing or outside" in changes_markdown(changes(old, new))
    assert changes_markdown(changes(old, old)) == "No cell changed.\n"


def test_a_papers_board_takes_its_own_cells_only(tmp_path):
    definition = definitions.read(make(tmp_path))
    own, other = record("pgd-10")["identity"], record("square")["identity"]
    assert definition.wants(own)
    assert not definition.wants(other)
    assert not definition.wants({**own, "defense": "trades"})


TWO_NETWORKS = PAPER + "P,1,digits,wide,ours,pgd10,accuracy,70.00,percent,\n"


LOSS = """
[[columns]]
label = "Loss"
printed = "pgd10"
metric = "loss"
analysis = "sets"
quantity = "loss"
"""
PRINTED_LOSS = PAPER + "P,1,digits,net,ours,pgd10,loss,0.1443,nats,\n"


def sets(loss, of=2, n=4, revision=1):
    """A record of an analysis that looked at n images, and whose number is of some of them."""
    beside = record()["identity"]
    head = {name: beside[name] for name in ("schema", "dataset", "data_sha256", "defense", "arch", "recipe",
            "train_seed", "weights_sha256", "mandatory", "gated", "defense_origin")}  # fmt: skip
    head |= {"kind": "analysis", "analysis": "sets", "analysis_revision": revision, "n": n}
    return record_of(head, {"quantities": {"loss": {"value": loss, "n": of, "unit": "nats"}}})


@pytest.mark.parametrize(("loss", "verdict"), [
    (0.1443, "reproduced"), (0.1457, "reproduced"), (0.1429, "reproduced"), (0.1459, "differs"), (0.1427, "differs"),
    (0.0, "differs"), (1.1443, "differs"),
])  # fmt: skip
def test_a_loss_is_compared_by_its_size_and_not_by_points(loss, verdict):
    found = compared(TOML + LOSS, PRINTED_LOSS, sets(loss))["Loss"]
    assert found.verdict == verdict


def test_the_tolerance_of_a_column_is_its_own(tmp_path):
    wide = LOSS + "tolerance = { relative = 0.5 }\n"
    assert compared(TOML + wide, PRINTED_LOSS, sets(0.2))["Loss"].verdict == "reproduced"
    assert compared(TOML + wide, PRINTED_LOSS, sets(0.22))["Loss"].verdict == "differs"
    assert (
        "(Loss: 2 points, or 50 % of it where it is no percentage)"
        in (make(tmp_path, toml=TOML + wide, paper=PRINTED_LOSS) / "table.md").read_text()
    )


def test_an_analysis_of_other_images_than_the_papers_is_another_setting():
    few = compared(TOML + LOSS, PRINTED_LOSS, sets(0.1443, n=3))["Loss"]
    assert few.in_words == "different setting (n)", "of how many images were looked at, not of those in the subset"
    newest = compared(TOML + LOSS, PRINTED_LOSS, sets(0.1443, n=3), sets(0.1443, n=4))["Loss"]
    assert newest.in_words == "reproduced"
    split = TOML.replace("n = 4", 'n = 4\nsplit = "held out of training"') + LOSS
    cells_ = compared(split, PRINTED_LOSS, sets(0.1443), record("pgd-10", raw="1100"))
    assert cells_["Loss"].in_words == cells_["PGD10"].in_words == "different setting (split)"
    row = TOML.replace('defense = "aalp"', 'defense = "aalp"\npaper_n = 3') + LOSS
    assert compared(row, PRINTED_LOSS, sets(0.1443, n=3))["Loss"].in_words == "reproduced"
    assert compared(row, PRINTED_LOSS, sets(0.1443))["Loss"].in_words == "different setting (n)"


def test_a_board_says_why_a_cell_has_no_number(tmp_path):
    toml = TOML.replace('printed = "none"', 'printed = "none"\nunmeasurable = "it is quoted"')
    toml = toml.replace('printed = "cw"', 'printed = "cw"\nunmeasured = "data"')
    found = cells(make(tmp_path, record("pgd-10", raw="1100"), toml=toml))
    assert found["Nothing", "PGD10"].in_words == "not measured: it is quoted"
    assert found["Ours", "CW"].in_words == "not measured: data"
    assert found["Ours", "Clean"].in_words == "not measured"
    assert found["Ours", "PGD10"].in_words == "reproduced", "a number needs no reason"
    assert found["Ours", "CW"].verdict == "not measured", "counted with the others"
    assert "| not measured: it is quoted; printed 3.00 |" in (tmp_path / "board" / "table.md").read_text()


def test_a_value_printed_for_two_networks_is_that_of_the_row_or_an_error(tmp_path):
    with pytest.raises(StoreError, match=r"row 'Ours', column 'PGD10': printed for several networks \(net, wide\)"):
        make(tmp_path / "a", toml=TOML, paper=TWO_NETWORKS)
    wide = [
        "[[rows]]", 'label = "Wide"', 'printed = "ours"', 'printed_arch = "wide"', 'paper_arch = "w"', 'arch = "w"',
        'defense = "aalp"', "", "[[columns]]",
    ]  # fmt: skip
    toml = TOML.replace('printed = "ours"\n', 'printed = "ours"\nprinted_arch = "net"\n')
    toml = toml.replace("[[columns]]", "\n".join(wide), 1)
    both = [record("pgd-10", raw="1100"), record("pgd-10", raw="1110", arch="w", weights_sha256="b" * 64)]
    found = cells(make(tmp_path / "b", *both, toml=toml, paper=TWO_NETWORKS))
    assert [found[label, "PGD10"].printed.value for label in ("Ours", "Wide")] == [51.0, 70.0]
    assert found["Wide", "PGD10"].in_words == "reproduced", "its network is the paper's of that row"
