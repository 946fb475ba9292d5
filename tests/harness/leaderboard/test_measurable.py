"""Cells that no command measures are found by planning each of them, and a board may say why never."""

from types import SimpleNamespace

import pytest

from harness.cli.leaderboard import check
from harness.errors import BoardMismatch, UsageError
from harness.leaderboard import definition as definitions
from harness.leaderboard.board import build
from harness.leaderboard.measurable import hindrances
from harness.leaderboard.missing import requests
from harness.registry.discovery import discover

REGISTRY = discover()
HEAD = 'title = "T"\nkind = "paper"\ndataset = "digits"\nrecipe = "quick"\nthreat = "linf:1/5"\n'
ROW = '[[rows]]\nlabel = "Ours"\nprinted = "ours"\ndefense = "aalp"\n'
COLUMN = '[[columns]]\nlabel = "PGD"\nprinted = "pgd"\nattack = "pgd-10"\n'
ANALYSIS = '[[columns]]\nlabel = "Detector"\nprinted = "d"\nanalysis = "detector"\nquantity = "accuracy, fgsm_ss"\n'


def board(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "board.toml").write_text(text)
    return definitions.read(folder)


def found(folder, text):
    return [(one.row, one.columns, one.stated, one.found) for one in hindrances(board(folder, text), REGISTRY)]


def test_a_board_whose_cells_are_planned_has_none(tmp_path):
    clean = '[[columns]]\nlabel = "Clean"\nprinted = "c"\nattack = "clean"\n'
    cost = '[[columns]]\nlabel = "Cost"\nprinted = "c"\nanalysis = "cost"\nquantity = "parameters"\n'
    assert found(tmp_path, HEAD + ROW + COLUMN + clean + cost) == []
    detected = ROW.replace("aalp", "simple_structure")
    assert found(tmp_path, HEAD + detected + ANALYSIS) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('defense = "aalp"\n', "", "the row names no defense"),
        ('attack = "pgd-10"\n', "", "the column names no attack and no analysis"),
        ('attack = "pgd-10"', 'analysis = "detector"\nquantity = "q"', "analysis detector is not of aalp"),
        ('attack = "pgd-10"', 'attack = "tpap_bpda"', "tpap_bpda: it is written against tpap"),
        ('attack = "pgd-10"', 'attack = "pgd-10@clean"', "aalp has no stand-in 'clean'"),
        ('attack = "pgd-10"', 'attack = "aa_few_class"', "needs at most 4 classes, digits has 10"),
        ('attack = "pgd-10"', 'attack = "deepfool"\nthreat = "unbounded"', "none of the selected attacks works under"),
        ('attack = "pgd-10"', 'attack = "pgd-11"', "unknown attack 'pgd-11'"),
        ('attack = "pgd-10"', 'attack = "pgd-10[steps=10]"', "its command measures pgd-10 under linf:1/5, not"),
        ('attack = "pgd-10"', 'attack = "autoattack"', "its command measures aa_standard under linf:1/5, not"),
        ('threat = "linf:1/5"', 'threat = ""', "not pgd-10 under nothing"),
        ('threat = "linf:1/5"', 'threat = "linf:0.2"', "under linf:1/5, not pgd-10 under linf:0.2"),
        ('recipe = "quick"', 'recipe = "slow"', "no recipe 'slow' for aalp on digits"),
        ('dataset = "digits"', 'dataset = "cifar11"', "unknown dataset 'cifar11'"),
        ('defense = "aalp"', 'defense = "aalp[version=2]"', "its command measures defense aalp, not aalp[version=2]"),
    ],
)  # fmt: skip
def test_each_way_of_naming_what_nothing_measures_is_found(tmp_path, old, new, words):
    assert (HEAD + ROW + COLUMN).count(old) == 1
    ((row, columns, stated, why),) = found(tmp_path, (HEAD + ROW + COLUMN).replace(old, new))
    assert (row, columns, stated) == ("Ours", ("PGD",), "")
    assert words in why


def test_a_quantity_that_the_records_of_an_analysis_do_not_have_is_found(tmp_path):
    column = '[[columns]]\nlabel = "Size"\nprinted = "s"\nanalysis = "cost"\nquantity = "paramters"\n'
    found_ = board(tmp_path, HEAD + ROW + column)
    row = SimpleNamespace(defense="aalp", analyses={"cost": {"parameters": None}})
    others = [SimpleNamespace(defense="aalp", analyses={}), SimpleNamespace(defense="alp", analyses=row.analyses)]
    assert hindrances(found_, REGISTRY, others) == []
    (one,) = hindrances(found_, REGISTRY, [row])
    assert one.in_words == "row 'Ours', column Size: analysis cost has no quantity 'paramters'"


def test_a_ranked_row_is_measurable_where_anything_of_it_is(tmp_path):
    ranked = HEAD.replace('"paper"', '"ranked"\nattacks = ["pgd-10", "tpap_bpda"]')
    assert found(tmp_path, ranked + ROW) == []
    ((row, columns, _, why),) = found(tmp_path, ranked.replace('"pgd-10", ', "") + ROW)
    assert (row, columns) == ("Ours", ())
    assert "it is written against tpap" in why
    assert found(tmp_path, ranked + ROW.replace('defense = "aalp"\n', ""))[0][3] == "it names no defense"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + 'unmeasurable = "R"\n' + ROW + ANALYSIS, "board"),
        (HEAD + ROW + 'unmeasurable = "R"\n' + ANALYSIS, "row"),
        (HEAD + ROW + 'unmeasurable = { Detector = "R" }\n' + ANALYSIS, "cell"),
        (HEAD + ROW + ANALYSIS + 'unmeasurable = "R"\n', "column"),
    ],
)
def test_a_stated_reason_stands_in_place_of_the_fault_and_is_planned_no_more(tmp_path, text, place):
    assert found(tmp_path, text) == [("Ours", ("Detector",), "R", "")], place
    assert requests(board(tmp_path, text), []) == []


def test_a_reason_for_one_cell_leaves_the_others(tmp_path):
    text = HEAD + ROW + 'unmeasurable = { Detector = "R" }\n' + COLUMN + ANALYSIS
    (request,) = requests(board(tmp_path, text), [])
    assert (list(request.attacks), list(request.analyses)) == (["pgd-10"], [])


def test_a_reason_why_not_yet_leaves_the_cell_in_the_plan(tmp_path):
    text = HEAD + 'unmeasured = "data"\n' + ROW + COLUMN
    assert found(tmp_path, text) == []
    assert len(requests(board(tmp_path, text), [])) == 1


def test_a_reason_for_a_column_that_is_none_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="row 'Ours' gives a reason for 'Detektor', which is no column"):
        board(tmp_path, HEAD + ROW + 'unmeasurable = { Detektor = "R" }\n' + ANALYSIS)


def test_the_check_fails_on_a_cell_without_a_reason_and_names_those_that_have_one(tmp_path, capsys):
    text = HEAD + ROW + COLUMN + ANALYSIS
    board(tmp_path, text)
    build(tmp_path)
    with pytest.raises(BoardMismatch, match=r"row 'Ours', column Detector: analysis detector is not of aalp. Mend it"):
        check([tmp_path])
    board(tmp_path, text.replace('defense = "aalp"', 'defense = "aalp"\nunmeasurable = { Detector = "it has none" }'))
    build(tmp_path)
    capsys.readouterr()
    check([tmp_path])
    told = capsys.readouterr().out
    assert f"{tmp_path}: no command measures row 'Ours', column Detector: it has none" in told
