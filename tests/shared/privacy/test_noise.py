"""Noise has the right distribution, never repeats, and nobody outside can steer it."""

import copy
import multiprocessing
import os
import pickle
import random
import time

import numpy as np
import pytest
import torch
from scipy import stats

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy import InjectedNoise, SystemNoise

CPU = torch.device("cpu")


def normals(source, n, std=1.0, dtype=torch.float64):
    return source.normal((n,), std, device=CPU, dtype=dtype)


# A correct source fails a test of this level once in ten million runs.
LEVEL = 1e-7


@pytest.mark.parametrize("make", [SystemNoise, lambda: InjectedNoise(3)])
class TestDistribution:
    def test_normals_are_normal(self, make):
        assert stats.kstest(normals(make(), 200_000, std=2.5).numpy() / 2.5, "norm").pvalue > LEVEL

    def test_the_two_halves_of_a_draw_are_independent(self, make):
        a, b = normals(make(), 200_000).reshape(2, -1).numpy()
        assert stats.pearsonr(a, b).pvalue > LEVEL
        # Pairs of the Box-Muller transform share a radius, so look at squares too.
        assert stats.pearsonr(a**2, b**2).pvalue > LEVEL

    def test_tails_are_there(self, make):
        beyond = (normals(make(), 1_000_000).abs() > 4.0).sum().item()
        assert stats.binomtest(beyond, 1_000_000, 2 * stats.norm.sf(4.0)).pvalue > LEVEL

    def test_uniforms_are_uniform_and_below_one(self, make):
        draws = make().uniform(200_000)
        assert draws.dtype == torch.float64
        assert draws.min() >= 0.0
        assert draws.max() < 1.0
        assert stats.kstest(draws.numpy(), "uniform").pvalue > LEVEL

    @pytest.mark.parametrize("shape", [(0,), (1,), (3,), (2, 3, 5), ()])
    def test_any_shape(self, make, shape):
        draws = make().normal(shape, 1.0, device=CPU, dtype=torch.float32)
        assert draws.shape == shape
        assert draws.dtype == torch.float32
        assert len(make().uniform(0)) == 0


class TestSystemNoise:
    def test_draws_of_one_instance_never_repeat(self):
        source = SystemNoise()
        # Many small draws and large ones, so that the buffer is refilled in between.
        draws = torch.cat([source.uniform(n) for n in [7] * 5000 + [100_000, 1, 100_000]])
        assert len(draws.unique()) == len(draws)

    def test_two_instances_never_draw_the_same(self):
        a, b = SystemNoise().uniform(50_000), SystemNoise().uniform(50_000)
        assert not np.isin(a.numpy(), b.numpy()).any()

    def test_no_seed_reaches_it(self):
        def seeded():
            torch.manual_seed(0)
            np.random.seed(0)  # noqa: NPY002  # the global state is the point
            random.seed(0)
            return normals(SystemNoise(), 100)

        assert not torch.equal(seeded(), seeded())

    def test_drawing_leaves_the_global_generators_alone(self):
        before = torch.random.get_rng_state()
        normals(SystemNoise(), 100)
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_it_cannot_be_duplicated(self, duplicate):
        with pytest.raises(PrivacyError, match="same noise"):
            duplicate(SystemNoise())

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_process_draws_its_own(self):
        source = SystemNoise()
        source.uniform(10)
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=lambda: sender.send(source.uniform(100).tolist()))
        child.start()
        theirs = receiver.recv()
        child.join()
        assert not set(theirs) & set(source.uniform(100).tolist())

    def test_it_is_fast_enough_for_every_step(self):
        source = SystemNoise()

        def seconds():
            start = time.thread_time()
            normals(source, 100_000, dtype=torch.float32)
            return time.thread_time() - start

        # About 2 ms on an idle core; the bound only catches a change of order.
        assert min(seconds() for _ in range(10)) < 0.03


class TestInjectedNoise:
    def test_says_that_it_protects_nobody(self):
        assert "protects nobody" in InjectedNoise(5).description
        assert "seed 5" in InjectedNoise(5).description

    def test_same_seed_same_draws(self):
        assert torch.equal(normals(InjectedNoise(1), 50), normals(InjectedNoise(1), 50))
        assert not torch.equal(normals(InjectedNoise(1), 50), normals(InjectedNoise(2), 50))

    def test_goes_on_after_a_journey_to_another_process(self):
        source = InjectedNoise(1)
        source.uniform(3)
        arrived = pickle.loads(pickle.dumps(source))
        assert torch.equal(arrived.uniform(5), source.uniform(5))
