"""Examples are brought together by patient, and no patient is split."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.units import Units, by_patient, whole_units

CPU = torch.device("cpu")
SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=8).map(tuple)


@given(st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 4), max_size=30))
def test_each_patients_examples_lie_together(patients):
    patients = torch.tensor(patients, dtype=torch.int64)
    order, sizes = by_patient(patients)
    ordered = patients if order is None else patients[order]
    found = [part.unique() for part in ordered.split(sizes)] if sizes else []
    assert all(len(one) == 1 for one in found)
    assert sorted(int(one) for one in found) == patients.unique().tolist()
    if order is not None:
        assert torch.equal(order.sort().values, torch.arange(len(patients)))


def test_examples_that_lie_together_are_left_in_their_order():
    order, sizes = by_patient(torch.tensor([7, 7, -2, 3, 3, 3]))
    assert order is None
    assert sizes == (2, 1, 3)


@given(SIZES, st.integers(1, 20))
def test_parts_hold_whole_units_and_no_more_than_they_have_to(sizes, limit):
    parts = list(whole_units(sizes, limit))
    assert tuple(size for part in parts for size in part) == sizes
    assert all(sum(part) <= limit or len(part) == 1 for part in parts)
    # As few parts as an order that is kept allows.
    for part, following in pairwise(parts):
        assert sum(part) + following[0] > limit


def test_nobody_is_no_part():
    assert list(whole_units((), 5)) == []


@given(SIZES)
def test_sums_and_products_are_those_of_each_unit(sizes):
    units = Units(sizes, CPU)
    torch.manual_seed(0)
    left, right = torch.randn(sum(sizes), 3, 4).double(), torch.randn(sum(sizes), 3, 5).double()
    sums, products = units.sums(left), units.products(left, right)
    for unit, (a, b) in enumerate(units.split(left, right)):
        torch.testing.assert_close(sums[unit], a.sum(dim=0))
        torch.testing.assert_close(products[unit], torch.einsum("blo,bli->oi", a, b))


@given(SIZES)
def test_every_example_gets_its_units_value(sizes):
    units = Units(sizes, CPU)
    values = torch.arange(len(sizes))
    assert torch.equal(units.spread(values), values.repeat_interleave(torch.tensor(sizes)))
    assert torch.equal(units.of_examples, units.spread(values))


@given(SIZES)
def test_units_of_one_size_are_found_with_their_examples(sizes):
    units = Units(sizes, CPU)
    found = {}
    for size, members, examples in units.by_size():
        found |= dict.fromkeys(members.tolist(), size)
        assert examples.tolist() == [
            b for b, unit in enumerate(units.of_examples.tolist()) if sizes[unit] == size
        ]
    assert tuple(found[unit] for unit in range(len(sizes))) == sizes


def test_another_number_of_examples_is_refused():
    with pytest.raises(PrivacyError, match="sees 4 examples in a batch of 3"):
        Units((2, 1), CPU).sums(torch.zeros(4, 2))
