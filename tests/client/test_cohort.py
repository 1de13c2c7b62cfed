"""Cohorts: built once, dealt by patient, refused with one sentence, never half-written."""

import csv
import errno
import json
import os
import stat
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wardround_client import cohort_files
from wardround_client.cohort import NO_SITE, build_cohorts, open_cohort
from wardround_client.cohort_files import GrowingArray, copy_rows, folder_name
from wardround_shared.errors import CohortError, DataError

DATA = """
[data]
source = "table"
table = ["*.csv"]
label = { column = "sick", values = { absent = ["0"], present = ["1"] } }
patient = "who"
features = [{ column = "age" }]
"""
SITES = DATA + 'site = { column = "place" }\n'


@dataclass(frozen=True)
class InTurn:
    """Patients dealt in the order of their codes."""

    sites: int = 3
    description: str = "in turn"

    def __call__(self, labels, patients, validation):
        return np.unique(patients, return_inverse=True)[1] % self.sites


def write(folder, rows, name="a.csv"):
    folder.mkdir(exist_ok=True)
    lines = ["who,place,age,sick", *[",".join(str(cell) for cell in row) for row in rows]]
    (folder / name).write_text("\n".join(lines) + "\n")


def people(count, per_patient=2):
    places = ("north", "south")
    return [
        (f"p{i}", places[i % 2], i, (i // 2) % 2) for i in range(count) for _ in range(per_patient)
    ]


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "data", people(40))
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_each_site_has_its_own_examples(data, cache, study_of):
    cohorts = build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert [c.site for c in cohorts.cohorts] == ["north", "south"]
    north, south = cohorts.cohorts
    np.testing.assert_array_equal(north.arrays[0][:, 0], np.repeat(np.arange(0, 40, 2), 2))
    np.testing.assert_array_equal(south.arrays[0][:, 0], np.repeat(np.arange(1, 40, 2), 2))
    np.testing.assert_array_equal(north.targets, (north.arrays[0][:, 0] // 2) % 2)
    assert len(np.unique(north.patients)) == 20
    assert isinstance(north.arrays[0], np.memmap)
    both = np.concatenate([north.train, north.validation])
    np.testing.assert_array_equal(np.sort(both), np.arange(40))


def test_without_a_site_key_there_is_one_site(data, cache, study_of):
    cohorts = build_cohorts(study_of(DATA), data, cache=cache, partition=None)
    assert [(c.site, len(c.targets)) for c in cohorts.cohorts] == [("site-1", 80)]


def test_a_second_call_opens_no_patient_file(data, cache, study_of):
    study = study_of(SITES)
    first = build_cohorts(study, data, cache=cache, partition=None)
    path = data / "a.csv"
    status = path.stat()
    path.write_bytes(b"\xff" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = build_cohorts(study, data, cache=cache, partition=None)
    assert again.folder == first.folder
    for one, other in zip(first.cohorts, again.cohorts, strict=True):
        np.testing.assert_array_equal(one.arrays[0], other.arrays[0])
        np.testing.assert_array_equal(one.validation, other.validation)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DataError):
        build_cohorts(study, data, cache=cache, partition=None)


def test_reading_tells_how_many_records_were_read(data, cache, study_of):
    told = []
    cohorts = build_cohorts(
        study_of(DATA), data, cache=cache, partition=None, progress=lambda *one: told.append(one)
    )
    (cohort,) = cohorts.cohorts
    records = len(cohort.targets) + cohort.set_aside
    assert told == [("reading", number, 0) for number in range(1, records + 1)]


def test_whatever_changes_the_result_changes_the_key(data, cache, study_of):
    studies = [
        study_of(SITES),
        study_of(SITES, name="other"),
        study_of(SITES + "validation-fraction = 0.3\n"),
        study_of(DATA),
    ]
    folders = {build_cohorts(s, data, cache=cache, partition=None).folder for s in studies}
    for partition in (InTurn(), InTurn(sites=2, description="two in turn")):
        folders.add(build_cohorts(studies[0], data, cache=cache, partition=partition).folder)
    write(data, people(2), name="b.csv")
    folders.add(build_cohorts(studies[3], data, cache=cache, partition=None).folder)
    assert len(folders) == 7


def test_nobody_else_may_look_into_the_cache(data, cache, study_of):
    cohorts = build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    folders = [cache, cohorts.folder, *[c.folder for c in cohorts.cohorts]]
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}
    assert [path.name for path in cache.iterdir()] == [cohorts.folder.name]
    assert not (cohorts.folder / ".pool").exists()


@pytest.mark.parametrize("name", ["examples.npy", "part-0.npy", "cohort.json", "../cohorts.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache_is_built_again(data, cache, study_of, name, damage):
    study = study_of(SITES)
    first = build_cohorts(study, data, cache=cache, partition=None)
    path = first.cohorts[0].folder / name
    expected = np.array(first.cohorts[0].arrays[0])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    again = build_cohorts(study, data, cache=cache, partition=None)
    np.testing.assert_array_equal(again.cohorts[0].arrays[0], expected)


def test_a_worker_opens_a_cohort_by_its_folder(data, cache, study_of):
    cohort = build_cohorts(study_of(SITES), data, cache=cache, partition=None).cohorts[1]
    opened = open_cohort(cohort.folder)
    assert (opened.site, opened.set_aside, opened.notes) == ("south", 0, ())
    np.testing.assert_array_equal(opened.train, cohort.train)
    with pytest.raises(DataError, match="cannot be read"):
        open_cohort(cohort.folder / "elsewhere")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(data, cache, study_of, monkeypatch, code):
    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(cohort_files.GrowingArray, "append", full)
    with pytest.raises(DataError, match="cache: the disk is full"):
        build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_a_folder_is_one_sentence(data, tmp_path, study_of):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the cohort cache cannot be written"):
        build_cohorts(study_of(SITES), data, cache=tmp_path / "file" / "cache", partition=None)


def test_an_interrupted_build_leaves_nothing(data, cache, study_of, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cohort_files.GrowingArray, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert list(cache.iterdir()) == []


# --- what was set aside ----------------------------------------------------------------------


def test_everything_set_aside_is_counted_and_listed(data, cache, study_of):
    rows = [*people(100, 1), ("x1", "north", "old", 1), ("x2", "south", 5, ""), ("x3", "", 5, 1)]
    write(data, rows)
    cohorts = build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert cohorts.set_aside == {
        "north": {"column age holds no finite number": 1},
        "south": {"no label": 1},
        NO_SITE: {"no site": 1},
    }
    assert [c.set_aside for c in cohorts.cohorts] == [1, 1]
    with (cohorts.folder / "set-aside.csv").open() as file:
        listed = {row["where"]: (row["site"], row["reason"]) for row in csv.DictReader(file)}
    assert listed == {
        "a.csv:102": ("north", "column age holds no finite number"),
        "a.csv:103": ("south", "no label"),
        "a.csv:104": ("", "no site"),
    }
    again = build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert again.set_aside == cohorts.set_aside


@pytest.mark.parametrize(("bad", "stops"), [(1, False), (2, True)])
def test_the_share_allowed_at_a_site_is_rounded_up_to_an_example(data, cache, study_of, bad, stops):
    south = [(f"s{i}", "south", "?" if i < bad else i, i % 2) for i in range(8)]
    write(data, [(f"n{i}", "north", i, i % 2) for i in range(100)] + south)
    if not stops:
        assert build_cohorts(study_of(SITES), data, cache=cache, partition=None)
        return
    with pytest.raises(CohortError, match=r"site south: 2 of 8 examples .*age holds no finite"):
        build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert list(cache.iterdir()) == []


def test_a_share_of_nothing_allows_nothing(data, cache, study_of):
    write(data, [*people(40), ("x", "north", "?", 1)])
    with pytest.raises(CohortError, match=r"the data: 1 of 81 .*unreadable-share = 0\."):
        build_cohorts(
            study_of(SITES + "unreadable-share = 0.0\n"), data, cache=cache, partition=None
        )


def test_a_site_without_any_usable_example_is_left_out(data, cache, study_of):
    write(data, [*people(40), ("x", "west", "?", 1)])
    study = study_of(SITES + "unreadable-share = 1.0\n")
    cohorts = build_cohorts(study, data, cache=cache, partition=None)
    assert [c.site for c in cohorts.cohorts] == ["north", "south"]
    assert "site west has no usable example and is left out." in cohorts.notes


def test_no_example_at_all_is_refused(data, cache, study_of):
    write(data, [("x", "west", "?", 1)])
    study = study_of(SITES + "unreadable-share = 1.0\n")
    with pytest.raises(CohortError, match="No example is left: 1 were set aside"):
        build_cohorts(study, data, cache=cache, partition=None)
    write(data, [])
    with pytest.raises(CohortError, match="There is no example"):
        build_cohorts(study, data, cache=cache, partition=None)


def test_a_patient_in_two_sites_is_refused_without_being_named(data, cache, study_of):
    write(data, [*people(4), ("p0", "south", 5, 1), ("p2", "south", 5, 1)])
    with pytest.raises(CohortError, match=r"patients in two sites: 2.*a\.csv:2 and a\.csv:10") as e:
        build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert "p0" not in str(e.value)
    # A partition deals all of a patient's examples to one site, so there it does not matter.
    assert build_cohorts(study_of(SITES), data, cache=cache, partition=InTurn(sites=2))


def test_one_class_only_is_noted(data, cache, study_of):
    write(data, [("p1", "north", 1, 1), ("p2", "north", 2, 1), ("p3", "south", 1, 0)])
    cohorts = build_cohorts(study_of(SITES), data, cache=cache, partition=None)
    assert cohorts.cohorts[0].notes == ("site north has one class only: present.",)
    assert cohorts.cohorts[1].notes == (
        "site south has one class only: absent.",
        "site south has nobody to validate on.",
    )
    assert set(cohorts.notes) == {*cohorts.cohorts[0].notes, *cohorts.cohorts[1].notes}


def test_images_of_different_sizes_ask_for_a_step(tmp_path, cache, study_of):
    for i, size in enumerate([(8, 8), (8, 8), (9, 8)]):
        Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / f"{i}.png")
    rows = ["file,finding", *[f"{i}.png,present" for i in range(3)]]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    text = (
        '[data]\nsource = "images"\ntable = ["labels.csv"]\nfile = "file"\n'
        'label = { column = "finding" }\n'
    )
    study = study_of(text, task="image-classification")
    with pytest.raises(CohortError, match=r"labels\.csv:4: .*\(1, 9, 8\).*add a resize"):
        build_cohorts(study, tmp_path, cache=cache, partition=None)


# --- partitions ------------------------------------------------------------------------------


def test_a_partition_deals_every_example_once_and_keeps_the_split(data, cache, study_of):
    whole = build_cohorts(study_of(DATA), data, cache=cache, partition=None).cohorts[0]
    dealt = build_cohorts(study_of(SITES), data, cache=cache, partition=InTurn()).cohorts
    assert [c.site for c in dealt] == ["site-1", "site-2", "site-3"]
    values = np.concatenate([c.arrays[0][:, 0] for c in dealt])
    assert Counter(values.tolist()) == Counter(whole.arrays[0][:, 0].tolist())
    train = set(np.concatenate([c.patients[c.train] for c in dealt]).tolist())
    assert train == set(whole.patients[whole.train].tolist())


def test_a_virtual_site_without_examples_is_left_out(data, cache, study_of):
    write(data, people(2))
    cohorts = build_cohorts(study_of(SITES), data, cache=cache, partition=InTurn(sites=12))
    assert [c.site for c in cohorts.cohorts] == ["site-01", "site-02"]
    assert "site-12 was dealt no example and is left out." in cohorts.notes


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_split_never_depends_on_row_order(tmp_path_factory, study_of, rows, random):
    def sides(order):
        folder = tmp_path_factory.mktemp("any")
        write(folder / "data", [(f"p{who}", f"s{who % 2}", 1, sick) for who, sick in order])
        study = study_of(SITES)
        built = build_cohorts(study, folder / "data", cache=folder / "cache", partition=None)
        for cohort in built.cohorts:
            assert len(cohort.train)
            assert bool(len(cohort.validation)) == (len(np.unique(cohort.patients)) > 1)
            assert not set(cohort.patients[cohort.train]) & set(cohort.patients[cohort.validation])
        return {c.site: set(c.patients[c.train].tolist()) for c in built.cohorts}

    assert sides(rows) == sides(random.sample(rows, len(rows)))


# --- files -----------------------------------------------------------------------------------


def test_a_growing_array_is_a_plain_npy_file(tmp_path):
    rows = np.random.default_rng(0).normal(size=(2500, 3, 2)).astype(np.float32)
    with GrowingArray(tmp_path / "a.npy", (3, 2), np.float32) as growing:
        for start in range(0, 2500, 7):
            growing.append(rows[start : start + 7])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), rows)
    chosen = np.arange(1, 2500, 2)
    copy_rows(np.load(tmp_path / "a.npy", mmap_mode="r"), chosen, tmp_path / "b.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), rows[chosen])


def test_a_growing_array_takes_one_shape_and_type(tmp_path):
    with GrowingArray(tmp_path / "a.npy", (3,), np.float32) as growing:
        with pytest.raises(ValueError, match="is not"):
            growing.append(np.zeros((1, 4), np.float32))
        with pytest.raises(ValueError, match="is not"):
            growing.append(np.zeros((1, 3), np.float64))


@given(st.lists(st.text(min_size=1, max_size=60), unique=True, max_size=20))
def test_site_names_become_safe_and_distinct_folder_names(names):
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder
        assert len(folder) <= 64
        assert set(folder) <= set(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
        )


def test_the_listing_of_a_site_stays_readable():
    assert folder_name("site-1") == "site-1"
    assert folder_name("Washington University").startswith("Washington-University-")
    assert json.dumps(folder_name("../../etc")).count(".") == 0
