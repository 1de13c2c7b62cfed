"""Texts in tables: cells of several lines, long ones, empty ones, broken ones."""

import csv
from collections import Counter

import numpy as np
import pytest

from wardround_client.cohort import build_cohorts
from wardround_client.sources import open_source
from wardround_shared.errors import CohortError, DataError, StudyError
from wardround_shared.study import parse_study

STUDY = """
[study]
name = "notes"
task = "text-classification"
classes = ["absent", "present"]
[data]
source = "text"
table = ["*.csv"]
text = ["note", "talk"]
missing = ["", "NA"]
label = { column = "finding" }
patient = "who"
[preprocessing]
steps = [{ name = "hash-words", length = 8 }]
[model]
name = "bilstm"
[training]
rounds = 1
learning-rate = 0.1
[privacy]
mechanism = "none"
[aggregation]
secure = false
"""


@pytest.fixture
def study():
    return parse_study(STUDY, origin="test")


def write(folder, *rows, name="a.csv"):
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["who", "finding", "note", "talk"])
        writer.writerows(rows)


def append(folder, content: bytes, name="a.csv"):
    with (folder / name).open("ab") as file:
        file.write(content)


def test_a_cell_may_have_lines_quotes_and_commas(tmp_path, study, read):
    write(tmp_path, ["p1", "present", 'He said "no",\r\nthen left.', "Doctor: Why?\nPatient: -"])
    (record,), aside, _ = read(study, tmp_path)
    assert record.main.tolist() == ['He said "no",\r\nthen left.', "Doctor: Why?\nPatient: -"]
    assert (record.patient, int(record.target), record.site) == ("p1", 1, None)
    assert not aside


def test_a_missing_cell_is_an_empty_text(tmp_path, study, read):
    write(tmp_path, ["p1", "present", "NA", "pain"])
    (record,), _, _ = read(study, tmp_path)
    assert record.main.tolist() == ["", "pain"]


def test_what_cannot_be_used_is_set_aside_in_fixed_phrases(tmp_path, study):
    names = [f"p{i}" for i in range(20)]
    write(
        tmp_path,
        *([name, "present", "some pain", "yes"] for name in names),
        ["who-a", "absent", "", "NA"],
        ["who-b", "absent", "...", "\U0001f600"],
        ["who-c", "", "pain", ""],
        ["who-d", "absent", "pain"],
    )
    append(tmp_path, b"who-e,absent,caf\xe9 noir,talk\r\n")
    roomy = study.model_copy(update={"data": study.data.model_copy(update={"unreadable_share": 1})})
    cohorts = build_cohorts(roomy, tmp_path, cache=tmp_path / "cache")
    assert cohorts.set_aside["site-1"] == {
        "the text has no word": 2,
        "no label": 1,
        "the row has too few or too many cells": 1,
        "the row is not in UTF-8": 1,
    }
    (cohort,) = cohorts.cohorts
    assert len(cohort.targets) == 20
    assert cohort.arrays[0].dtype == np.int32
    assert cohort.arrays[0].shape == (20, 1, 8)
    said = (cohorts.folder / "set-aside.csv").read_text(encoding="utf-8")
    assert not any(word in said for word in ("caf", "noir", "pain", "who-"))


def test_no_word_is_in_the_cache_of_decoded_cohorts(tmp_path, study):
    write(tmp_path, *([f"p{i}", "present", "Zebrafinch asthma", f"w{i}"] for i in range(9)))
    cohorts = build_cohorts(study, tmp_path, cache=tmp_path / "cache")
    files = [file for file in cohorts.folder.rglob("*") if file.is_file()]
    assert files
    assert not any(b"zebrafinch" in file.read_bytes().lower() for file in files)


def test_a_text_of_a_million_characters_is_read(tmp_path, study, read):
    before = csv.field_size_limit()
    write(tmp_path, ["p1", "present", "pain " * 200_000, "yes"])
    (record,), _, _ = read(study, tmp_path)
    assert len(record.main[0]) == 999_999
    assert csv.field_size_limit() == before


def test_a_quotation_mark_that_is_never_closed_is_refused_and_swallows_nobody(
    tmp_path, study, read
):
    write(tmp_path, *([f"p{i}", "present", "pain", "yes"] for i in range(3)))
    append(tmp_path, b'p9,present,"pain,yes\r\np10,present,pain,yes\r\n')
    with pytest.raises(DataError, match="not a delimited table"):
        read(study, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_a_table_in_another_encoding_is_refused(tmp_path, study, encoding):
    rows = "".join(f"p{i},present,Übelkeit,süß\r\n" for i in range(20))
    content = ("who,finding,note,talk\r\n" + rows).encode(encoding)
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match="UTF-8") as caught:
        build_cohorts(study, tmp_path, cache=tmp_path / "cache")
    assert "bel" not in str(caught.value).replace("usable", "")


def test_too_many_without_a_word_stop_the_run(tmp_path, study):
    write(
        tmp_path, *([f"p{i}", "present", "..", ""] for i in range(5)), ["p", "absent", "pain", ""]
    )
    with pytest.raises(CohortError, match=r"5 of 6 examples cannot be used.*the text has no word"):
        build_cohorts(study, tmp_path, cache=tmp_path / "cache")


def test_a_column_that_is_not_there_is_named(tmp_path, study, read):
    (tmp_path / "a.csv").write_text("who,finding,note\np,absent,pain\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'talk'; the columns are who, finding, note"):
        read(study, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('text = ["note", "talk"]', "text = []", "data.text"),
        ('name = "bilstm"', 'name = "lstm"', "texts need"),
        ('task = "text-classification"', 'task = "signal-classification"', "does not fit"),
        ('name = "hash-words", length = 8', 'name = "hash-words", length = 1', "length"),
        ('name = "bilstm"', 'name = "bilstm"\nbuckets = 4', "model.buckets"),
    ],
)
def test_an_impossible_study_is_refused_at_the_edge(old, new, fault):
    with pytest.raises(StudyError, match=fault):
        parse_study(STUDY.replace(old, new), origin="test")


def test_bilstm_takes_nothing_but_texts(study_file):
    text = study_file.read_text(encoding="utf-8").replace(
        'name = "mlp"\nhidden = [8]\ndropout = 0.1', 'name = "bilstm"'
    )
    with pytest.raises(StudyError, match=r'"bilstm" does not go with data.source = "table"'):
        parse_study(text, origin="test")


def test_the_public_notes_are_read_whole(shared_data):
    folder = shared_data / "text-mts-dialog"
    if not folder.is_dir():
        pytest.skip("the data set text-mts-dialog is not here")
    from wardround_shared.study import load_study
    from wardround_simulations.options import find_study

    study = load_study(find_study("text-mts-dialog"))
    source = open_source(study, folder)
    labels = Counter(study.study.classes[int(record.target)] for record in source.records())
    assert sum(labels.values()) == 1301  # as its README counts them
    assert labels["FAM/SOCHX"] == 373
    assert labels["GENHX"] == 302
    assert len(labels) == 20
