"""Norms from products are those of the gradients, and never understate them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_shared.privacy.gradients import BookKept, Full, Together, dense, norms_are_cheaper
from wardround_shared.privacy.units import Units

CPU = torch.device("cpu")


def wide(units, positions, *, cancel=None):
    """Factors of a layer so wide that norms come from products."""
    torch.manual_seed(0)
    shape = (units.examples, positions) if positions else (units.examples,)
    left, right = torch.randn(*shape, 300), torch.randn(*shape, 400)
    if cancel is not None:  # each second example takes back what the one before gave
        right[1::2] = right[::2]
        left[1::2] = -left[::2] * (1.0 + cancel)
    return left, right


@pytest.mark.parametrize("positions", [0, 2])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (3, 1), (4,)])
def test_equals_gradients_held_in_full(sizes, positions):
    units = Units(sizes, CPU)
    left, right = wide(units, positions)
    form, path = dense(units, left, right)
    assert isinstance(form, BookKept)
    assert path.startswith("book-keeping")
    full = Full(units.products(left, right))
    torch.testing.assert_close(form.squared_norms(), full.squared_norms(), rtol=1e-5, atol=0)
    factors = torch.rand(len(units))
    torch.testing.assert_close(
        form.weighted_sum(factors), full.weighted_sum(factors), rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(form.in_full(), full.in_full())


@pytest.mark.parametrize("positions", [0, 2])
@pytest.mark.parametrize("cancel", [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_what_cancels_is_never_released_beyond_the_bound(cancel, positions):
    units = Units((4,), CPU)
    left, right = wide(units, positions, cancel=cancel)
    form, _ = dense(units, left, right)
    assert isinstance(form, BookKept)
    norm = form.squared_norms().sqrt()
    released = form.weighted_sum(1.0 / norm)  # clipped to one
    assert released.double().norm() <= 1.0 + 1e-6


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans()), min_size=1, max_size=4),
)
def test_together_they_are_as_one_by_one(sizes, parameters):
    units = Units(tuple(sizes), CPU)
    torch.manual_seed(1)
    forms = []
    for width, large, full in parameters:
        values = torch.randn(len(sizes), *((66_000,) if large else (width, 3)))
        held = Full(values)
        kept = BookKept(
            held.squared_norms(),
            units,
            (torch.ones(units.examples), torch.ones(units.examples)),
            lambda left, right, values=values: torch.einsum(
                "u,u...->...",
                left[units.of_examples.diff(prepend=torch.tensor([-1])) > 0],
                values,
            ),
            lambda left, right, values=values: values,
        )
        forms.append(held if full else kept)
    together = Together.of(forms)
    factors = torch.rand(len(sizes))
    norms = torch.stack([form.squared_norms() for form in forms]).sum(dim=0)
    torch.testing.assert_close(together.squared_norms(), norms, rtol=1e-5, atol=0)
    sums = torch.cat([form.weighted_sum(factors).flatten() for form in forms])
    torch.testing.assert_close(together.weighted_sum(factors), sums, rtol=1e-5, atol=1e-5)


FORMS = {
    "rank one": ((1, 1, 1, 1), 0, 300),
    "products of examples": ((2, 1, 3), 0, 300),
    "ghost norms": ((2, 1, 3), 2, 300),
    "materialised": ((2, 1, 3), 0, 2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("side", ["left", "right", "both"])
class TestAUnitThatIsNotFinite:
    def gradients(self, form, side, poison):
        """Of three or four units, with the second one's rows poisoned, and with zeros there."""
        sizes, positions, outputs = FORMS[form]
        units = Units(sizes, CPU)
        left, right = (x[..., :outputs].clone() for x in wide(units, positions))
        theirs = units.of_examples == 1
        for rows in {"left": [left], "right": [right], "both": [left, right]}[side]:
            rows[theirs, ..., ::2] = poison
        poisoned, path = dense(units, left.clone(), right.clone())
        assert isinstance(poisoned, Full) == (path == "materialised") == (form == "materialised")
        left[theirs] = right[theirs] = 0.0
        zeros, _ = dense(units, left, right)
        lost = torch.arange(len(units)) == 1
        return poisoned, zeros, lost

    def test_leaves_the_norms_of_others_as_they_are(self, form, side, poison):
        poisoned, zeros, lost = self.gradients(form, side, poison)
        norms = poisoned.squared_norms()
        assert torch.equal(norms.isfinite(), ~lost)
        assert torch.equal(norms[~lost], zeros.squared_norms()[~lost])

    def test_is_zero_once_it_is_taken_out(self, form, side, poison):
        poisoned, zeros, lost = self.gradients(form, side, poison)
        rest = poisoned.without(lost)
        assert rest.squared_norms()[lost] == 0
        assert torch.equal(rest.in_full(), zeros.in_full())
        factors = torch.rand(len(lost))
        assert torch.equal(rest.weighted_sum(factors), zeros.weighted_sum(factors))
        together = Together.of([poisoned, Full(torch.ones(len(lost), 2))]).without(lost)
        assert together.squared_norms()[lost] == 0
        assert torch.equal(together.weighted_sum(factors)[-1], factors[~lost].sum())


@pytest.mark.parametrize("small", [1e-18, 1e-22, 1e-30])
def test_a_norm_whose_factors_underflow_is_not_understated(small):
    units = Units((1,) * 4, CPU)
    left, right = wide(units, 0)
    for a, b in ((left * small, right * 1e16), (left * 1e16, right * small)):
        form, path = dense(units, a, b)
        assert path == "book-keeping, products of norms"
        norms = form.in_full().double().flatten(1).norm(dim=1)
        assert (form.squared_norms().double().sqrt() >= norms * (1 - 1e-6)).all()


def test_the_square_norm_of_many_numbers_is_exact():
    values = torch.full((3, 1 << 20), 0.1)
    expected = values.double().square().sum(dim=1)
    found = Full(values).squared_norms().double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_norms_are_cheaper_for_wide_layers_of_few_positions():
    patients = Units((4,) * 16, CPU)
    assert norms_are_cheaper(patients, 1, 64, 512)
    assert norms_are_cheaper(patients, 4, 512, 4608)
    assert not norms_are_cheaper(patients, 1, 32, 13)
    assert not norms_are_cheaper(patients, 256, 32, 288)
