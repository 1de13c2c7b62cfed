"""Values come back within a step, sums are exact and never overflow, nothing strange gets in."""

import dataclasses
import math
import os
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from wardround_shared.errors import PrivacyError, ProtocolError, StudyError
from wardround_shared.secure_aggregation import quantisation as module
from wardround_shared.secure_aggregation.masks import add_vector
from wardround_shared.secure_aggregation.quantisation import (
    Segment,
    VectorLayout,
    quantise,
)

LEVEL = 1e-7
BOUNDS = st.floats(2.0**-100, 2.0**100)
BITS = st.sampled_from([16, 32])


def layout(*segments, sites=10, ring_bits=32):
    return VectorLayout(segments=segments, sites=sites, ring_bits=ring_bits)


def delta(length, bound=1.0):
    return Segment(name="delta", length=length, bound=bound)


def counts(length, bound=1000.0):
    return Segment(name="counts", length=length, bound=bound, integral=True)


def quantised(values, form, random=os.urandom):
    out = np.full(form.words, 0xDEADBEEF, dtype=np.uint32)
    clamped = quantise(values, form, random, out)
    return out, clamped


def dequantise(total, form, sites):
    return [steps.values() for steps in module.dequantise(total, form, sites)]


def summed(vectors, form):
    total = np.zeros(form.words, dtype=np.uint32)
    for vector in vectors:
        add_vector(total, vector, wide=form.wide)
    return total


class TestScale:
    @given(BOUNDS, st.integers(1, 1000), BITS)
    @example(bound=1.0, sites=1, bits=32)
    @example(bound=math.nextafter(1.0, 0.0), sites=3, bits=32)
    @example(bound=math.nextafter(1.0, 2.0), sites=2, bits=16)
    def test_it_is_the_largest_power_of_two_that_leaves_room(self, bound, sites, bits):
        segment = delta(1, bound)
        scale = layout(segment, sites=sites, ring_bits=bits).scale(segment)
        assert math.frexp(scale)[0] == 0.5
        exact = Fraction(bound) * Fraction(scale)
        assert math.ceil(exact) * sites < 2 ** (bits - 1)
        assert exact * sites < 2 ** (bits - 1)
        assert math.ceil(2 * exact) * sites >= 2 ** (bits - 1)

    def test_whole_numbers_are_not_scaled(self):
        assert layout(counts(1)).scale(counts(1)) == 1.0

    def test_whole_numbers_whose_sum_does_not_fit_are_refused(self):
        layout(counts(1, 2.0**30 - 1), sites=2)
        with pytest.raises(StudyError, match="counts"):
            layout(counts(1, 2.0**30), sites=2)

    @pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf, 1e-40, 1e40])
    def test_an_impossible_bound_is_refused(self, bound):
        with pytest.raises(StudyError, match="delta"):
            delta(1, bound)


class TestOverflow:
    @given(BOUNDS, st.integers(1, 40), BITS, st.sampled_from([-1.0, 1.0]), st.binary(max_size=2))
    def test_all_sites_at_the_limit_do_not_overflow(self, bound, sites, bits, sign, key):
        form = layout(delta(2, bound), counts(1, 7.0), sites=sites, ring_bits=bits)
        values = [np.array([sign * bound, sign * 1e300]), np.array([sign * 7.0])]
        vector, clamped = quantised(values, form, lambda n: key.ljust(n, b"k"))
        sums = dequantise(summed([vector] * sites, form), form, sites)
        step = 1.0 / form.scale(form.segments[0])
        assert clamped == 1
        assert (np.sign(sums[0]) == sign).all()
        assert (np.abs(sums[0] - sites * sign * bound) < sites * step * (1 + 1e-9)).all()
        assert sums[1].tolist() == [sites * sign * 7.0]

    def test_a_larger_sum_than_any_is_noticed(self):
        form = layout(counts(1, 10.0), sites=3)
        dequantise(np.array([30], dtype=np.uint32), form, 3)
        for total, sites in ((31, 3), (21, 2), (2**32 - 31, 3), (2**31, 3)):
            with pytest.raises(ProtocolError, match="mask was not removed"):
                dequantise(np.array([total], dtype=np.uint32), form, sites)

    @pytest.mark.parametrize("sites", [0, 4])
    def test_a_sum_over_more_sites_than_planned_is_refused(self, sites):
        with pytest.raises(ProtocolError, match="vectors"):
            dequantise(np.zeros(1, dtype=np.uint32), layout(counts(1, 10.0), sites=3), sites)


class TestRoundTrip:
    @given(
        st.lists(st.floats(-1, 1, width=32), max_size=30),
        st.lists(st.integers(-1000, 1000), max_size=5),
        st.integers(1, 20),
        BITS,
    )
    def test_values_come_back_within_a_step_and_whole_numbers_exactly(
        self, values, whole, sites, bits
    ):
        form = layout(delta(len(values)), counts(len(whole)), sites=sites, ring_bits=bits)
        parts = [np.array(values, dtype=np.float32), np.array(whole, dtype=np.float64)]
        vector, clamped = quantised(parts, form)
        back = dequantise(vector, form, 1)
        step = 1.0 / form.scale(form.segments[0])
        assert clamped == 0
        assert (np.abs(back[0] - parts[0]) < step).all()
        assert back[1].tolist() == whole

    @given(st.integers(1, 6), st.integers(0, 9), BITS, st.integers(0, 1000))
    def test_the_sum_of_vectors_is_the_sum_of_integers(self, sites, length, bits, seed):
        form = layout(delta(length, 3.0), counts(2), sites=sites, ring_bits=bits)
        rng = np.random.default_rng(seed)
        vectors = [
            quantised([rng.uniform(-4, 4, length), rng.integers(0, 1000, 2).astype(float)], form)[0]
            for _ in range(sites)
        ]
        total = dequantise(summed(vectors, form), form, sites)
        apart = [dequantise(vector, form, 1) for vector in vectors]
        for i, segment in enumerate(total):
            assert segment.tolist() == sum(parts[i] for parts in apart).tolist()

    @given(st.integers(-(2**14), 2**14))
    def test_whole_numbers_of_steps_are_not_rounded(self, steps):
        form = layout(delta(1, 1.0), sites=1, ring_bits=16)
        scale = form.scale(form.segments[0])
        vector, _ = quantised([np.array([steps / scale])], form)
        assert dequantise(vector, form, 1)[0].tolist() == [steps / scale]

    @pytest.mark.parametrize("length", [module._CHUNK - 1, module._CHUNK, 2 * module._CHUNK + 1])
    @pytest.mark.parametrize("bits", [16, 32])
    def test_chunks_join(self, length, bits):
        form = layout(delta(length), counts(3), ring_bits=bits)
        values = np.linspace(-1, 1, length, dtype=np.float32)
        vector, _ = quantised([values, np.ones(3)], form)
        back = dequantise(vector, form, 1)
        assert np.abs(back[0] - values).max() < 1.0 / form.scale(form.segments[0])
        assert back[1].tolist() == [1, 1, 1]


class TestRounding:
    def test_it_is_unbiased_and_its_error_is_as_stated(self):
        n, fraction = 400_000, 0.3
        form = layout(delta(n, 2.0), sites=1, ring_bits=16)
        scale = form.scale(form.segments[0])
        vector, _ = quantised([np.full(n, (5 + fraction) / scale)], form)
        steps = dequantise(vector, form, 1)[0] * scale
        assert set(steps) == {5.0, 6.0}
        assert stats.binomtest(int((steps == 6).sum()), n, fraction).pvalue > LEVEL

    def test_it_is_unbiased_below_zero(self):
        n = 400_000
        form = layout(delta(n, 2.0), sites=1, ring_bits=16)
        scale = form.scale(form.segments[0])
        vector, _ = quantised([np.full(n, -0.25 / scale)], form)
        steps = dequantise(vector, form, 1)[0] * scale
        assert set(steps) == {-1.0, 0.0}
        assert stats.binomtest(int((steps == -1).sum()), n, 0.25).pvalue > LEVEL

    def test_two_roundings_of_one_value_are_independent(self):
        form = layout(delta(100_000), sites=10, ring_bits=16)
        values = np.random.default_rng(0).uniform(-1, 1, 100_000)
        errors = [dequantise(quantised([values], form)[0], form, 1)[0] - values for _ in range(2)]
        assert stats.pearsonr(*errors).pvalue > LEVEL

    @pytest.mark.parametrize("tiny", [1e-30, -1e-30, 5e-324])
    def test_next_to_nothing_is_nothing(self, tiny):
        vector, _ = quantised([np.full(200_000, tiny)], layout(delta(200_000)))
        assert not vector.any()


class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("at", [0, 40_000, -1])
    def test_what_is_not_finite_is_refused_and_nothing_is_left(self, bad, at):
        form = layout(counts(1), delta(100_000))
        values = np.ones(100_000, dtype=np.float32)
        values[at] = bad
        out = np.ones(form.words, dtype=np.uint32)
        with pytest.raises(PrivacyError, match=r"'delta'.*not finite"):
            quantise([np.ones(1), values], form, os.urandom, out)
        assert not out.any()

    def test_a_fraction_where_whole_numbers_belong_is_refused(self):
        out = np.ones(1, dtype=np.uint32)
        with pytest.raises(PrivacyError, match="whole"):
            quantise([np.array([0.5])], layout(counts(1)), os.urandom, out)
        assert not out.any()

    def test_parts_that_do_not_fit_the_layout_are_refused(self):
        form = layout(delta(2), counts(1))
        for parts in ([np.ones(2)], [np.ones(3), np.ones(1)], [np.ones((2, 1)), np.ones(1)]):
            with pytest.raises(ProtocolError):
                quantised(parts, form)
        for out in (np.zeros(4, dtype=np.uint32), np.zeros(3, dtype=np.int32)):
            with pytest.raises(ProtocolError):
                quantise([np.ones(2), np.ones(1)], form, os.urandom, out)
        with pytest.raises(ProtocolError):
            dequantise(np.zeros(4, dtype=np.uint32), form, 1)


class TestClamping:
    def test_clamped_values_are_counted_and_carry_the_bound(self):
        form = layout(delta(5, 0.5), counts(2, 10.0))
        parts = [np.array([0.5, 0.51, -9.0, 0.0, -0.5]), np.array([10.0, -10.0])]
        vector, clamped = quantised(parts, form)
        assert clamped == 2
        back = dequantise(vector, form, 1)
        assert back[0].tolist() == [0.5, 0.5, -0.5, 0.0, -0.5]
        assert back[1].tolist() == [10.0, -10.0]

    @pytest.mark.parametrize("count", [11.0, -11.0, 1e9])
    def test_a_count_is_never_clamped(self, count):
        """A clamped count would make sums that do not fit together: an accuracy above one."""
        form = layout(delta(2), counts(3, 10.0))
        out = np.full(form.words, 7, dtype=np.uint32)
        with pytest.raises(PrivacyError, match="beyond the study's public bound"):
            quantise([np.ones(2), np.array([1.0, count, 2.0])], form, os.urandom, out)
        assert not out.any()

    def test_a_bound_is_not_rounded_to_the_precision_of_the_values(self):
        # float32(0.1) is a little more than 0.1.
        _, clamped = quantised([np.array([0.1], dtype=np.float32)], layout(delta(1, 0.1)))
        assert clamped == 1

    def test_the_values_themselves_are_left_alone(self):
        values = np.array([9.0, -9.0])
        quantised([values], layout(delta(2)))
        assert values.tolist() == [9.0, -9.0]


class TestLayout:
    form = layout(delta(3), counts(2), sites=10)

    def test_the_digest_covers_everything(self):
        others = [
            dataclasses.replace(self.form, sites=11),
            dataclasses.replace(self.form, ring_bits=16),
            dataclasses.replace(self.form, segments=self.form.segments[::-1]),
            *(
                dataclasses.replace(
                    self.form, segments=(dataclasses.replace(delta(3), **change), counts(2))
                )
                for change in ({"name": "d"}, {"length": 4}, {"bound": 2.0}, {"integral": True})
            ),
        ]
        assert len({form.digest() for form in [self.form, *others]}) == len(others) + 1

    def test_sixteen_bits_halve_the_message_and_spare_whole_numbers(self):
        form = layout(delta(1001), counts(2), ring_bits=16)
        assert (form.wide, form.words, form.length) == (2, 2 + 501, 1003)
        wide = layout(delta(1001), counts(2))
        assert (wide.wide, wide.words, wide.length) == (1003, 1003, 1003)

    def test_memory_is_that_of_a_few_chunks(self):
        form = layout(delta(2_000_000))
        values, out = np.ones(2_000_000, dtype=np.float32), np.zeros(form.words, dtype=np.uint32)
        tracemalloc.start()
        quantise([values], form, os.urandom, out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1_500_000

    @pytest.mark.parametrize(
        "change", [{"sites": 0}, {"sites": 2**31}, {"ring_bits": 24}, {"segments": (delta(1),) * 2}]
    )
    def test_an_impossible_layout_is_a_mistake_of_the_program(self, change):
        with pytest.raises(ValueError, match=r"ring|sites|name"):
            dataclasses.replace(self.form, **change)
