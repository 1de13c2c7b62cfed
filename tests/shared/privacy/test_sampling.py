"""Who is drawn: every patient with the same probability, and never more of one than the cap."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy import InjectedNoise, Patients, SystemNoise, poisson_batches


def drawn(patients, *, rate=0.3, steps=1, noise=None, at_most=3):
    codes = torch.tensor(patients, dtype=torch.int64)
    noise = noise or SystemNoise()
    return list(Patients(codes).batches(rate, steps, noise, at_most=at_most))


class TestRecords:
    def test_each_unit_is_drawn_with_the_sample_rate(self):
        steps = 4000
        counts = torch.zeros(20)
        for batch in poisson_batches(20, 0.3, steps, SystemNoise()):
            counts[batch] += 1
        for count in counts.tolist():
            assert stats.binomtest(int(count), steps, 0.3).pvalue > 1e-6

    @pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
    def test_a_rate_that_is_none_is_refused(self, rate):
        with pytest.raises(PrivacyError, match="probability"):
            list(poisson_batches(5, rate, 1, SystemNoise()))
        with pytest.raises(PrivacyError, match="probability"):
            drawn([1, 1, 2], rate=rate)


class TestPatients:
    @given(st.lists(st.integers(-5, 5), max_size=40), st.integers(1, 6), st.floats(0.01, 1.0))
    def test_a_drawn_patient_brings_all_examples_or_the_cap(self, patients, at_most, rate):
        for batch in drawn(patients, rate=rate, steps=3, at_most=at_most):
            codes = [patients[i] for i in batch.tolist()]
            assert len(set(batch.tolist())) == len(batch)
            for code in set(codes):
                assert codes.count(code) == min(at_most, patients.count(code))
            # One patient after the other.
            assert codes == sorted(codes)

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
    def test_at_rate_one_everybody_is_there(self, patients):
        (batch,) = drawn(patients, rate=1.0, at_most=100)
        assert sorted(batch.tolist()) == list(range(len(patients)))

    def test_a_patient_with_many_examples_is_drawn_no_more_often(self):
        patients = [0] * 50 + [1] * 2 + [2]
        steps = 4000
        counts = dict.fromkeys(range(3), 0)
        for batch in drawn(patients, steps=steps):
            for code in {patients[i] for i in batch.tolist()}:
                counts[code] += 1
        for count in counts.values():
            assert stats.binomtest(count, steps, 0.3).pvalue > 1e-6

    def test_patients_are_drawn_independently(self):
        steps = 4000
        pairs = torch.zeros(2, 2)
        for batch in drawn([0, 0, 1], rate=0.5, steps=steps):
            members = set(batch.tolist())
            pairs[int(bool(members & {0, 1})), int(2 in members)] += 1
        assert stats.chi2_contingency(pairs.numpy()).pvalue > 1e-6

    def test_which_examples_of_a_patient_are_taken_is_uniform_and_new_in_each_step(self):
        patients = [7] * 6 + [9] * 2
        steps = 3000
        counts = torch.zeros(6)
        pairs = set()
        for batch in drawn(patients, rate=1.0, steps=steps, at_most=2):
            mine = batch[batch < 6]
            counts[mine] += 1
            pairs.add(tuple(sorted(mine.tolist())))
        assert len(pairs) == 15
        assert stats.chisquare(counts.numpy()).pvalue > 1e-6

    def test_the_draws_come_from_the_source_of_the_noise_alone(self):
        torch.manual_seed(0)
        first = drawn([0, 0, 0, 0, 1, 2] * 5, steps=20, noise=InjectedNoise(3))
        torch.manual_seed(1)
        second = drawn([0, 0, 0, 0, 1, 2] * 5, steps=20, noise=InjectedNoise(3))
        other = drawn([0, 0, 0, 0, 1, 2] * 5, steps=20, noise=InjectedNoise(4))
        assert [b.tolist() for b in first] == [b.tolist() for b in second]
        assert [b.tolist() for b in first] != [b.tolist() for b in other]

    def test_nobody_is_a_batch_of_nobody(self):
        assert [len(batch) for batch in drawn([], steps=2)] == [0, 0]
