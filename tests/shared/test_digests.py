"""No two lists of fields have one hash."""

import numpy as np
import pytest

from wardround_shared.digests import FieldDigest


def hashed(*fields, label="label"):
    digest = FieldDigest(label)
    for field in fields:
        if isinstance(field, str):
            digest.text(field)
        elif isinstance(field, int):
            digest.number(field)
        else:
            digest.array(field)
    return digest.digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("ab",), ("a", "b")),
        (("atb",), ("a", "b")),
        (("an1",), ("a", 1)),
        (("a", ""), ("a",)),
        (("1",), (1,)),
        ((12, 3), (1, 23)),
        ((-1,), (1,)),
        (("\n",), ("", "")),
        ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        ((np.zeros(4, np.float32),), (np.zeros(2, np.float64),)),
        ((np.zeros(2, "<f8"),), (np.zeros(2, ">f8"),)),
        ((np.zeros(1),), (np.zeros(()),)),
        ((np.zeros((0, 3)),), (np.zeros((3, 0)),)),
        ((np.array([0.0]),), (np.array([-0.0]),)),
    ],
)
def test_fields_are_told_apart(one, other):
    assert hashed(*one) != hashed(*other)


def test_the_label_is_part_of_it():
    assert hashed("a") != hashed("a", label="another")


def test_the_memory_layout_of_an_array_is_not():
    array = np.arange(6.0).reshape(2, 3)
    assert hashed(array) == hashed(np.asfortranarray(array)) == hashed(array.copy())
    assert hashed(array[:, ::2]) == hashed(array[:, ::2].copy())
