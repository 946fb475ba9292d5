"""Boards: rows and worst cases against a brute-force count, tables from records alone, tampering noticed."""

import csv
import io
import itertools

import numpy as np
import pytest

from harness.errors import BoardMismatch, StoreError
from harness.leaderboard import board
from harness.leaderboard.tables import flag_notes, percent, wide
from harness.leaderboard.tidy import COLUMNS, tidy
from harness.results.ranking import ranks
from harness.results.rows import rows
from harness.storage import records
from harness.types import CellState
from support.records import record, record_of


def random_board(seed=0, n=40):
    stream = np.random.default_rng(seed)
    found = []
    for defense, threat in itertools.product(("one", "two"), ("linf:1/5", "l2:1")):
        clean = "".join(stream.choice(["0", "1"], n, p=[0.2, 0.8]))
        for attack in ("a", "b", "c"):
            bits = {name: "".join(stream.choice(["0", "1"], n)) for name in ("raw", "last", "any_")}
            halves = [(0, n // 2), (n // 2, n)]
            for start, stop in halves:
                cut = {name: text[start:stop] for name, text in bits.items()}
                found.append(
                    record(attack, defense, threat, (start, stop), clean[start:stop], split_size=n, **cut)
                )  # fmt: skip
    return found


def test_readings_and_worst_cases_equal_a_count_image_by_image():
    found = random_board()
    for row in rows(found):
        for threat in row.threats():
            standing = 0
            for i in range(40):
                bits = [
                    (r["outcome"]["clean"][i - r["identity"]["start"]], r["outcome"]["any"][i - r["identity"]["start"]])
                    for r in found
                    if r["identity"]["defense"] == row.defense
                    and r["identity"]["threat"] == threat
                    and r["identity"]["start"] <= i < r["identity"]["stop"]
                ]
                standing += all(pair == ("1", "0") for pair in bits)
            assert row.worst(threat).count("1") == standing
            for cell in (c for c in row.cells.values() if c.threat == threat):
                assert row.worst(threat).count("1") <= cell.robust.count("1")


def test_tables_do_not_depend_on_the_order_of_the_records():
    found = random_board()
    shuffled = [found[i] for i in np.random.default_rng(1).permutation(len(found))]
    assert wide(rows(found)) == wide(rows(shuffled))
    assert tidy(rows(found)) == tidy(rows(shuffled))


def test_threat_models_are_never_mixed_in_a_worst_case():
    found = [record("a", threat="linf:1/5", any_="0000"), record("b", threat="l2:1", any_="1111")]
    (row,) = rows(found)
    assert row.worst("linf:1/5") == "1111"
    assert row.worst("l2:1") == "0000"
    assert "## digits, linf:1/5" in wide([row])
    assert "## digits, l2:1" in wide([row])


def test_a_full_run_takes_the_place_of_a_limited_one():
    short = record(span=(0, 2), clean="11", raw="11", last="00", any_="00")
    (row,) = rows([short, record()])
    (cell,) = row.cells.values()
    assert cell.n == 4
    assert cell.any == "0111"


def test_a_gap_ends_a_row_where_it_begins():
    parts = [record(span=(4, 8), split_size=12), record(span=(0, 4), split_size=12), record(span=(9, 12), split_size=12,
             clean="111", raw="111", last="000", any_="000")]  # fmt: skip
    (row,) = rows(parts)
    assert next(iter(row.cells.values())).n == 8


def test_a_cell_shows_share_interval_and_n():
    assert percent("1" * 300 + "0" * 200) == "60.0 [55.6, 64.2] n=500"


def test_the_tidy_file_has_a_line_for_each_cell_and_one_for_each_worst_case():
    lines = list(csv.DictReader(io.StringIO(tidy(rows(random_board())))))
    assert len(lines) == 2 * 2 * (3 + 1)
    one = next(line for line in lines if line["attack"] == "a")
    assert float(one["robust_low"]) <= float(one["robust"]) <= float(one["robust_high"])
    assert one["forwards"] == "10"


def test_ranges_over_trainings_and_over_seeds_of_the_attack():
    found = [
        record(seed=1, any_="1111"), record(any_="0111"), record("clean", threat="none"),
        record(train_seed=1, weights_sha256="b" * 64, clean="1110", any_="0010"), record(defense="raw"),
    ]  # fmt: skip
    table = wide(rows(found))
    assert "| aalp | net | quick, seed 1 | 75.0 " in table
    assert "| 25.0 [4.6, 69.9] n=4, 0.0 to 25.0 over 2 attack seeds |" in table
    # Over what both have: the attack's seed 0.
    worst = "25.0 to 50.0 over 2 trainings"
    assert (
        f"- aalp (net, quick): clean 75.0 to 100.0 over 2 trainings; worst case, static {worst}; worst case {worst}"
        in table
    )
    assert "- raw (net" not in table


def test_one_training_of_a_defense_is_ranked_and_the_others_follow_it():
    found = rows([
        record(any_="0111"), record(any_="0000", train_seed=2, weights_sha256="c" * 64),
        record(any_="0001", train_seed=1, weights_sha256="b" * 64), record(defense="raw", any_="0011"),
    ])  # fmt: skip
    lines = [line for line in wide(found).splitlines() if line.startswith(("| 1 ", "| another", "| not"))]
    heads = [tuple(part.strip() for part in line.split("|")[1:5]) for line in lines]
    assert heads == [
        ("1", "raw", "net", "quick"), ("1", "aalp", "net", "quick"),
        ("another training", "aalp", "net", "quick, seed 1"), ("another training", "aalp", "net", "quick, seed 2"),
    ]  # fmt: skip
    csv_ranks = [line.split(",")[COLUMNS.index("rank")] for line in tidy(found).splitlines() if "worst case" in line]
    assert sorted(csv_ranks) == ["1", "1", "another training", "another training"]
    assert ranks(found, "linf:1/5") == [None if row.train_seed else 1 for row in found]


def test_rows_with_the_same_evidence_share_the_line_of_a_flag():
    told = {"as_published": 1}
    found = [
        record(flags=told), record(flags=told, train_seed=1, weights_sha256="b" * 64),
        record("fgsm", "raw", flags=told),
    ]  # fmt: skip
    notes = [note.partition(" - ")[0] for note in flag_notes(rows(found)) if "as_published" in note]
    assert notes == ["aalp, aalp (seed 1): as_published (pgd-10)", "raw: as_published (fgsm)"]


def test_cells_without_a_number_are_words_with_reasons():
    states = {("aalp", "sta", "linf:1/5"): (CellState.FAILED, "ValueError: no")}
    table = wide(rows([record(), record(defense="raw")]), states)
    assert "| failed |" in table
    assert "| not run |" in table
    assert "- sta on aalp: failed, ValueError: no" in table
    assert ",failed," in tidy(rows([record()]), states)


def write_run(folder, found, missing=0):
    import json

    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"expected": [r["key"] for r in found]}))
    (folder / "records.jsonl").write_bytes(records.compact(found[missing:]))
    return folder


def test_a_board_is_built_from_runs_and_checks_until_a_byte_changes(tmp_path):
    run, place = write_run(tmp_path / "run", random_board()), tmp_path / "board"
    board.build(place, [run])
    assert board.check(place) == 24
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    board.build(place)
    assert before == {path.name: path.read_bytes() for path in place.iterdir()}
    for name in ("table.csv", "table.md"):
        path = place / name
        text = path.read_text()
        path.write_text(text.replace("one", "won", 1))
        with pytest.raises(BoardMismatch, match=name):
            board.check(place)
        path.write_text(text)
    lines = (place / "records.jsonl").read_bytes().splitlines(keepends=True)
    (place / "records.jsonl").write_bytes(b"".join(lines[1:]))
    with pytest.raises(BoardMismatch):
        board.check(place)


def test_an_incomplete_run_is_refused_and_so_is_a_contradiction(tmp_path):
    found = random_board()
    with pytest.raises(StoreError, match="2 of 24 records are missing"):
        board.build(tmp_path / "board", [write_run(tmp_path / "short", found, missing=2)])
    board.build(tmp_path / "board", [write_run(tmp_path / "run", found)])
    other = [record_of(found[0]["identity"], {**found[0]["outcome"], "any": "0" * 20}), *found[1:]]
    with pytest.raises(StoreError, match="both cannot be right"):
        board.build(tmp_path / "board", [write_run(tmp_path / "other", other)])
    with pytest.raises(StoreError, match="no records yet"):
        board.build(tmp_path / "empty")


def test_rows_are_sorted_by_worst_case():
    found = [record(defense="weak", any_="1110"), record(defense="good", any_="0001")]
    assert [row.defense for row in rows(found)] == ["good", "weak"]


def test_the_highest_revision_of_a_cell_counts_and_other_mixtures_are_refused():
    old, new = record(any_="0000"), record(any_="1111", attack_revision=2)
    for order in ([old, new], [new, old]):
        (row,) = rows(order)
        assert next(iter(row.cells.values())).any == "1111"
    with pytest.raises(StoreError, match="attack_origin is a and b"):
        rows([record(), record(attack_origin="b")])
