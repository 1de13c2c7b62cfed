"""Prepared arrays: one key for one set of constants, and not more of them than a few."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wardround_client import prepared
from wardround_client.prepared import KEPT, prepare, prepared_key
from wardround_shared.errors import DataError

RECIPE = SimpleNamespace(
    transform_key="recipe",
    transform=lambda arrays, fitted: tuple((a + fitted[0]["mean"]).astype("f4") for a in arrays),
)


@pytest.fixture
def cohort(tmp_path):
    folder = tmp_path / "cohort"
    folder.mkdir()
    return SimpleNamespace(folder=folder, arrays=(np.arange(6.0).reshape(3, 2),))


def constants(mean):
    return ({"mean": np.array(mean)},)


def folders(cohort):
    return sorted(path for path in cohort.folder.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        ({"mean": np.array([1.0, 2.5])},),
        ({"mean": np.array([[1.0, 2.0]])},),
        ({"mean": np.array([1.0, 2.0]).view(np.int64)},),
        ({"mear": np.array([1.0, 2.0])},),
        ({}, {"mean": np.array([1.0, 2.0])}),
        ({"mean": np.array([1.0, 2.0])}, {}),
        ({"mean": np.array([1.0]), "n": np.array([2.0])},),
    ],
)
def test_every_difference_of_the_constants_is_in_the_key(other):
    assert prepared_key(RECIPE, other) != prepared_key(RECIPE, constants([1.0, 2.0]))


def test_joined_bytes_of_two_constants_are_not_one_constant():
    """A name may hold whatever separates names, and values may look like names."""
    inner = np.frombuffer(b"/b/" + np.array([2.0]).tobytes(), np.uint8)
    one = ({"a": np.array([1.0]), "b": np.array([2.0])},)
    other = ({"a": np.concatenate((np.array([1.0]).view(np.uint8), inner))},)
    assert prepared_key(RECIPE, one) != prepared_key(RECIPE, other)


def test_arrays_are_written_once_and_read_after(cohort, monkeypatch):
    first = prepare(cohort, RECIPE, constants(1.0))
    np.testing.assert_array_equal(first[0], cohort.arrays[0] + 1)
    broken = SimpleNamespace(transform_key="recipe", transform=None)
    np.testing.assert_array_equal(prepare(cohort, broken, constants(1.0))[0], first[0])


def test_a_server_with_ever_new_constants_does_not_fill_the_disk(cohort):
    for number in range(3 * KEPT):
        arrays = prepare(cohort, RECIPE, constants(float(number)))
        np.testing.assert_array_equal(arrays[0], cohort.arrays[0] + number)
        assert len(folders(cohort)) <= KEPT + 1
    assert len(folders(cohort)) == KEPT


def test_what_is_used_stays(cohort):
    prepare(cohort, RECIPE, constants(0.0))
    used = folders(cohort)
    for number in range(1, 3 * KEPT):
        for place, folder in enumerate(folders(cohort)):  # a clock that is coarse
            os.utime(folder, ns=(place, place))
        prepare(cohort, RECIPE, constants(0.0))
        prepare(cohort, RECIPE, constants(float(number)))
        assert set(used) <= set(folders(cohort))


def test_mapped_arrays_outlive_their_folder(cohort):
    kept = prepare(cohort, RECIPE, constants(7.0))[0]
    for number in range(2 * KEPT):
        prepare(cohort, RECIPE, constants(float(-number)))
    np.testing.assert_array_equal(kept, cohort.arrays[0] + 7)


def test_arrays_that_another_process_removes_are_made_again(cohort, monkeypatch):
    mapped, removed = prepared._mapped, []

    def removing(folder, parts):
        if not removed:
            removed.append(folder)
            shutil.rmtree(folder)
        return mapped(folder, parts)

    monkeypatch.setattr(prepared, "_mapped", removing)
    arrays = prepare(cohort, RECIPE, constants(1.0))
    np.testing.assert_array_equal(arrays[0], cohort.arrays[0] + 1)

    def always(folder: Path, parts: int):
        shutil.rmtree(folder)
        return mapped(folder, parts)

    monkeypatch.setattr(prepared, "_mapped", always)
    with pytest.raises(DataError, match="vanishes"):
        prepare(cohort, RECIPE, constants(2.0))
