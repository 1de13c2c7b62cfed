"""Tables: joins, sites, and one clear sentence for each thing that is wrong with them."""

from collections import Counter

import numpy as np
import pytest

from wardround_client.sources import open_source
from wardround_shared.errors import CohortError, DataError, StudyError

DATA = """
[data]
source = "table"
table = ["*.csv"]
label = { column = "sick", values = { absent = ["0"], present = ["1"] } }
patient = "who"
site = { column = "place" }
features = [{ column = "age" }]
"""


def write(folder, name, *lines):
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_row_is_accounted_for(tmp_path, study_of, read):
    write(
        tmp_path,
        "a.csv",
        "who,place,age,sick",
        "p1,north,50,0",
        "p2,north,nan,1",
        "p3,north,old,1",
        "p4,north,61,",
        "p5,,62,1",
        ",south,63,1",
        "p7,south,64",
        "p8,south,,1",
        "p9,south,inf,1",
    )
    records, aside, _ = read(study_of(DATA), tmp_path)
    assert [r.key for r in records] == ["a.csv:2", "a.csv:9"]
    assert np.isnan(records[1].main).all()
    assert Counter(a.reason for a in aside) == {
        "column age holds no finite number": 3,
        "no label": 1,
        "no site": 1,
        "no patient key": 1,
        "the row has too few or too many cells": 1,
    }
    assert {a.key for a in aside} == {f"a.csv:{line}" for line in (3, 4, 5, 6, 7, 8, 10)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [(",north,50,1", "no patient key"), ("p2,,50,1", "no site"), ("p2,north,50,", "no label")],
)
def test_an_empty_key_or_label_is_missing_whatever_the_study_says(
    tmp_path, study_of, read, row, reason
):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,0", row)
    records, aside, _ = read(study_of(DATA + 'missing = ["?"]\n'), tmp_path)
    assert [r.key for r in records] == ["a.csv:2"]
    assert [(a.key, a.reason) for a in aside] == [("a.csv:3", reason)]


def test_an_empty_label_cannot_mean_a_class(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,")
    text = DATA.replace('absent = ["0"]', 'absent = ["0", " "]')
    with pytest.raises(StudyError, match="empty cell is a missing label and cannot mean absent"):
        read(study_of(text), tmp_path)


CODES = DATA.replace(
    'values = { absent = ["0"], present = ["1"] }',
    """containing = { absent = ["'NORM'"] }, otherwise = "present\"""",
)


def test_a_code_among_others_is_a_label(tmp_path, study_of, read):
    write(
        tmp_path,
        "a.csv",
        "who,place,age,sick",
        "p1,north,50,\"{'NORM': 100.0, 'SR': 0.0}\"",
        "p2,north,51,\"{'ABNORM': 100.0}\"",
        "p3,north,52,",
        "p4,north,53,SR",
    )
    records, aside, _ = read(study_of(CODES), tmp_path)
    assert [(r.patient, r.stratum) for r in records] == [("p1", 0), ("p2", 1), ("p4", 1)]
    assert [(a.key, a.reason) for a in aside] == [("a.csv:4", "no label")]


def test_codes_of_two_classes_in_one_cell_are_refused(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,NORM MI")
    text = DATA.replace(
        'values = { absent = ["0"], present = ["1"] }',
        'containing = { absent = ["NORM"], present = ["MI", "CD"] }',
    )
    with pytest.raises(CohortError, match=r"a.csv:2: column sick holds 'NORM MI', which means"):
        read(study_of(text), tmp_path)


def test_whatever_is_not_named_may_be_a_class(tmp_path, study_of, read):
    write(
        tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,0.0", "p2,north,51,present", "p3,n,5,"
    )
    text = DATA.replace('present = ["1"] }', '}, otherwise = "present"').replace("], }", "] }")
    records, aside, _ = read(study_of(text), tmp_path)
    assert [(r.patient, r.stratum) for r in records] == [("p1", 0), ("p2", 1)]
    assert len(aside) == 1


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ('values = { absent = ["0"] }, containing = { absent = ["0"] }', "values or containing"),
        ('otherwise = "present"', "otherwise needs"),
        ('values = { absent = ["0"] }, otherwise = "absent"', "no texts of its own"),
        ('values = { absent = ["0"] }, otherwise = "ill"', "data.label.otherwise: 'ill' is none"),
        ('containing = { ill = ["0"] }', "data.label.containing: 'ill' is none"),
        ('containing = { absent = [" "] }', "empty text"),
    ],
)
def test_labels_that_contradict_themselves_are_refused(study_of, label, fault):
    with pytest.raises(StudyError, match=fault):
        study_of(DATA.replace('values = { absent = ["0"], present = ["1"] }', label))


def test_a_byte_order_mark_blanks_and_quotes_do_not_matter(tmp_path, study_of, read):
    text = '\ufeffwho, place ,age,sick\r\n"p1", north ," 50",1\r\n\r\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    records, aside, _ = read(study_of(DATA), tmp_path)
    assert not aside
    assert (records[0].patient, records[0].site, records[0].main[0]) == ("p1", "north", 50)


def test_joined_tables_add_columns_by_key_and_say_what_has_no_match(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,sick,ward", "p1,0,7.0", "p2,1,8", "p3,1,9")
    (tmp_path / "further").mkdir()
    write(tmp_path / "further", "wards.csv", "ward,place,age", "7,north,1", "8,south,2")
    study = study_of(DATA + 'join = [{ file = "further/wards.csv", on = "ward" }]\n')
    records, aside, notes = read(study, tmp_path)
    assert [(r.site, r.main[0]) for r in records] == [("north", 1), ("south", 2)]
    assert [(a.key, a.reason) for a in aside] == [("a.csv:4", "no site")]
    assert notes == ("further/wards.csv: 1 of 3 rows have no match in it.",)


def test_a_key_that_stands_twice_in_a_joined_table_is_refused(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,sick,ward,place", "p1,0,7,north")
    (tmp_path / "further").mkdir()
    write(tmp_path / "further", "wards.csv", "ward,age", "7,1", "7.0,2")
    study = study_of(DATA + 'join = [{ file = "further/wards.csv", on = "ward" }]\n')
    with pytest.raises(DataError, match="lines 2 and 3 have the same 'ward'"):
        read(study, tmp_path)


def test_a_label_outside_the_classes_names_file_column_and_text(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,maybe")
    with pytest.raises(CohortError, match=r"a\.csv:2: column sick holds 'maybe'.*absent, present"):
        read(study_of(DATA), tmp_path)


def test_rows_that_where_leaves_out_are_never_judged(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,maybe", "p2,south,1,1")
    study = study_of(DATA + 'where = { sick = ["0", "1.0"] }\n')
    records, aside, notes = read(study, tmp_path)
    assert (len(records), aside) == (1, [])
    assert "leaves out 1 of 2 rows" in notes[0]
    assert notes[1] == "site north has no example in this study and is left out."


def test_a_missing_column_names_those_that_there_are(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,Age,sick", "p1,north,50,1")
    with pytest.raises(DataError, match="no column 'age'; the columns are who, place, Age, sick"):
        read(study_of(DATA), tmp_path)


def test_a_column_that_one_of_the_files_lacks_is_refused(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,1")
    write(tmp_path, "b.csv", "who,place,sick", "p1,north,1")
    with pytest.raises(DataError, match=r"b\.csv: there is no column 'age'"):
        read(study_of(DATA), tmp_path)


@pytest.mark.parametrize("empty", ["", "who,age,sick\n"])
def test_a_hospital_whose_file_has_no_row_is_left_out_with_a_note(tmp_path, study_of, read, empty):
    write(tmp_path, "north.csv", "who,age,sick", "p1,50,1")
    (tmp_path / "south.csv").write_text(empty)
    study = study_of(DATA.replace('column = "place"', "file = '(.*)[.]csv'"))
    records, _, notes = read(study, tmp_path)
    assert [r.site for r in records] == ["north"]
    assert notes == ("site south has no example in this study and is left out.",)


def test_sites_may_be_folders(tmp_path, study_of, read):
    for place in ("north", "south"):
        (tmp_path / place).mkdir()
        write(tmp_path / place, "a.csv", "who,age,sick", f"{place}-1,50,1")
    text = DATA.replace('column = "place"', "folder = true").replace('"*.csv"', '"*/a.csv"')
    records, _, _ = read(study_of(text), tmp_path)
    assert [r.site for r in records] == ["north", "south"]


def test_without_a_patient_column_equal_rows_are_different_patients(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "age,sick,place", "50,1,north", "50,1,north", "51,1,north")
    text = DATA.replace('patient = "who"\n', "")
    patients = {r.patient for r in read(study_of(text), tmp_path)[0]}
    assert len(patients) == 3
    write(tmp_path, "a.csv", "age,sick,place", "51,1,north", "50,1,north", "50,1,north")
    assert {r.patient for r in read(study_of(text), tmp_path)[0]} == patients


def test_at_most_so_many_examples_of_a_patient_spread_over_the_stay(tmp_path, study_of, read):
    rows = [f"p{i % 2},north,{i},1" for i in range(20)]
    write(tmp_path, "a.csv", "who,place,age,sick", *rows)
    records, _, notes = read(study_of(DATA + "max-per-patient = 3\n"), tmp_path)
    ages = {p: [r.main[0] for r in records if r.patient == p] for p in ("p0", "p1")}
    assert ages == {"p0": [0, 8, 18], "p1": [1, 9, 19]}
    assert notes == ("data.max-per-patient leaves out 14 examples.",)


def test_opening_finds_files_but_reads_none(tmp_path, study_of):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00 no table")
    source = open_source(study_of(DATA), tmp_path)
    before = source.fingerprint()
    with pytest.raises(DataError, match="not a table in UTF-8"):
        list(source.records())
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,1")
    assert source.fingerprint() != before


def test_a_missing_folder_or_file_is_named(tmp_path, study_of):
    with pytest.raises(DataError, match="nowhere: there is no such data folder"):
        open_source(study_of(DATA), tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no file matches '\*\.csv', which data\.table asks for"):
        open_source(study_of(DATA), tmp_path)
    write(tmp_path, "a.csv", "who")
    with pytest.raises(DataError, match=r"gone\.csv: there is no such file, which data\.join"):
        open_source(study_of(DATA + 'join = [{ file = "gone.csv", on = "who" }]\n'), tmp_path)


@pytest.mark.parametrize("pattern", ["../*.csv", "/etc/*.csv", "a/../../b.csv"])
def test_a_study_cannot_reach_out_of_the_data_folder(tmp_path, study_of, pattern):
    inner = tmp_path / "inner"
    inner.mkdir()
    write(tmp_path, "a.csv", "who")
    with pytest.raises(StudyError, match="leads out of the data folder"):
        open_source(study_of(DATA.replace("*.csv", pattern)), inner)
    joining = DATA + f'join = [{{ file = "{pattern}", on = "who" }}]\n'
    write(inner, "a.csv", "who")
    with pytest.raises(StudyError, match="leads out of the data folder"):
        open_source(study_of(joining), inner)


def test_one_text_cannot_mean_two_classes(tmp_path, study_of, read):
    write(tmp_path, "a.csv", "who,place,age,sick", "p1,north,50,1")
    text = DATA.replace('present = ["1"]', 'present = ["1", "0.0"]')
    with pytest.raises(StudyError, match=r"'0\.0' means both absent and present"):
        read(study_of(text), tmp_path)


@pytest.mark.parametrize("pattern", ["north", "(north"])
def test_a_site_pattern_without_a_group_is_refused(tmp_path, study_of, read, pattern):
    write(tmp_path, "north.csv", "who,age,sick", "p1,50,1")
    study = study_of(DATA.replace('column = "place"', f"file = '{pattern}'"))
    with pytest.raises(StudyError, match=r"data\.site\.file"):
        read(study, tmp_path)
