"""DP-SGD under attack: what one example can do, what the noise hides, what is refused."""

import copy
import itertools
import math

import pytest
import torch
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from scipy import stats
from torch import nn
from torch.nn import functional

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy import DpSgd, InjectedNoise, SystemNoise, poisson_batches

BOUND = 0.5
EXPECTED = 8.0
NOISE = 1.5


class NoNoise:
    """Shows the sum as it is before noise; only an attack may have this."""

    def normal(self, shape, std, *, device, dtype):
        return torch.zeros(shape, device=device, dtype=dtype)

    def uniform(self, n):
        return torch.rand(n, dtype=torch.float64)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(2, 4, 5, stride=2)
        self.lstm = nn.LSTM(4, 6, bidirectional=True, batch_first=True)
        self.dense = nn.Linear(12 + 3, 3)

    def forward(self, main, static):
        states, _ = self.lstm(self.front(main).relu().transpose(1, 2))
        return self.dense(torch.cat([states.mean(dim=1), static], dim=1))


class Mixed(nn.Module):
    """Layers of ours and layers that Opacus serves."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.norm = nn.LayerNorm(6)
        self.dense = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.dense(self.norm(self.embedding(tokens)).mean(dim=1))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


MODELS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)),
        lambda n: (torch.randn(n, 5),),
    ),
    "cnn": (cnn, lambda n: (torch.randn(n, 1, 12, 12),)),
    "lstm": (Recurrent, lambda n: (torch.randn(n, 2, 30), torch.randn(n, 3))),
    "mixed": (Mixed, lambda n: (torch.randint(0, 10, (n, 7)),)),
}


def cross_entropy(output, labels):
    return functional.cross_entropy(output, labels, reduction="none")


def setting(name="mlp", n=6):
    torch.manual_seed(11)
    make, draw = MODELS[name]
    return make(), draw(n), torch.randint(0, 3, (n,))


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def sgd(module, **settings):
    return torch.optim.SGD(module.parameters(), lr=1.0, **settings)


def opened(module, optimiser=None, noise=None, **changes):
    settings = {
        "noise_multiplier": NOISE,
        "max_grad_norm": BOUND,
        "expected_batch_size": EXPECTED,
        "noise": noise or NoNoise(),
    }
    return DpSgd(module, optimiser or sgd(module), **settings | changes)


def released(module, inputs, labels, loss=cross_entropy, noise=None, **changes):
    """What one step adds to the parameters, as (sum + noise): learning rate 1, undone division."""
    module = copy.deepcopy(module)
    before = flat(module).double()
    with opened(module, noise=noise, **changes) as private:
        private.step(inputs, labels, loss)
    return (before - flat(module).double()) * EXPECTED


@pytest.mark.parametrize("name", MODELS)
class TestSum:
    def test_is_the_sum_of_clipped_single_gradients(self, name, example_gradients, clipped_sum):
        module, inputs, labels = setting(name)
        gradients = example_gradients(
            module, inputs, lambda out, b: functional.cross_entropy(out, labels[b])
        )
        for bound in (1e-3, BOUND, 1e3):  # all clipped, some, none
            truth = torch.cat([g.flatten() for g in clipped_sum(gradients, bound).values()])
            found = released(module, inputs, labels, max_grad_norm=bound)
            torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)

    def test_one_example_changes_it_by_at_most_the_bound(self, name):
        module, inputs, labels = setting(name)
        whole = released(module, inputs, labels)
        for b in range(len(labels)):
            rest = [i for i in range(len(labels)) if i != b]
            without = released(module, tuple(x[rest] for x in inputs), labels[rest])
            assert (whole - without).norm() <= BOUND * (1 + 1e-5)

    def test_splitting_a_batch_changes_nothing(self, name):
        module, inputs, labels = setting(name)
        whole = released(module, inputs, labels)
        for size in (1, 4, 5):
            parts = released(module, inputs, labels, max_physical_batch=size)
            torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)

    def test_batches_of_none_and_one_work(self, name):
        module, inputs, labels = setting(name)
        assert released(module, tuple(x[:0] for x in inputs), labels[:0]).norm() == 0
        one = released(module, tuple(x[:1] for x in inputs), labels[:1])
        assert 0 < one.norm() <= BOUND * (1 + 1e-5)

    def test_module_is_left_as_it_was(self, name):
        module, inputs, labels = setting(name)
        untouched = copy.deepcopy(module)
        module_keys = [set(vars(m)) for m in module.modules()]
        identities = [(n, id(p)) for n, p in module.named_parameters()]
        with opened(module) as private:
            assert [(n, id(p)) for n, p in module.named_parameters()] == identities
            private.step(inputs, labels, cross_entropy)
        assert [(n, id(p)) for n, p in module.named_parameters()] == identities
        assert [set(vars(m)) for m in module.modules()] == module_keys
        assert all(not vars(p) and p.grad is None for p in module.parameters())
        assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())
        module.load_state_dict(untouched.state_dict())
        torch.testing.assert_close(module(*inputs), untouched(*inputs))

    @pytest.mark.filterwarnings("ignore:Full backward hook is firing")
    def test_evaluation_between_steps_leaves_no_trace(self, name):
        module, inputs, labels = setting(name)
        expected = released(module, inputs, labels)

        before = flat(module).double()
        with opened(module) as private:
            with torch.no_grad():
                module(*inputs)
            # Even gradients that someone takes outside of a step must not enter the next one.
            cross_entropy(module(*inputs), labels).sum().backward()
            module(*inputs)
            private.step(inputs, labels, cross_entropy)
        torch.testing.assert_close((before - flat(module).double()) * EXPECTED, expected)


# Opacus has no nn.LSTM; test_recurrent.py compares ours with its DPLSTM.
@pytest.mark.parametrize("name", ["mlp", "cnn", "mixed"])
def test_equals_opacus(name):
    module, inputs, labels = setting(name)
    theirs = GradSampleModule(copy.deepcopy(module), loss_reduction="sum")
    optimiser = DPOptimizer(
        sgd(theirs), noise_multiplier=0.0, max_grad_norm=BOUND, expected_batch_size=EXPECTED
    )
    with pytest.warns(UserWarning, match="Full backward hook is firing"):
        cross_entropy(theirs(*inputs), labels).sum().backward()
    optimiser.step()
    expected = (flat(module) - flat(theirs)).double() * EXPECTED
    found = released(module, inputs, labels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class TestOneHugeExample:
    @pytest.mark.parametrize("name", ["mlp", "cnn", "lstm"])
    @pytest.mark.parametrize("scale", [1e3, 1e6])
    def test_is_held_by_the_bound(self, name, scale):
        module, inputs, labels = setting(name)
        inputs[0][0] *= scale
        whole = released(module, inputs, labels)
        rest = released(module, tuple(x[1:] for x in inputs), labels[1:])
        assert (whole - rest).norm() <= BOUND * (1 + 1e-5)

    def test_is_held_when_its_loss_is_huge(self):
        module, inputs, labels = setting()
        weights = torch.tensor([1e6, 1, 1, 1, 1, 1])

        def loss(output, labels):
            return cross_entropy(output, labels) * weights[: len(labels)]

        found = released(module, tuple(x[:1] for x in inputs), labels[:1], loss)
        assert BOUND * 0.999 < found.norm() <= BOUND

    def test_does_not_silence_the_others(self):
        module, inputs, labels = setting()
        rest = released(module, tuple(x[1:] for x in inputs), labels[1:])
        inputs[0][0] *= 1e6
        alone = released(module, tuple(x[:1] for x in inputs), labels[:1])
        together = released(module, inputs, labels)
        torch.testing.assert_close(together, alone + rest, rtol=1e-4, atol=1e-4)


def test_clipping_never_exceeds_the_bound_in_float32():
    module, inputs, labels = setting(n=64)
    for bound in (1e-4, 0.1, 1.0):
        for b in range(64):
            one = tuple(x[b : b + 1] * 10 for x in inputs)
            # The released parameters are rounded; the summed gradient itself is not.
            with opened(module, max_grad_norm=bound) as private:
                grads = []
                private._optimiser.original_optimizer.register_step_pre_hook(
                    lambda o, *_, grads=grads: grads.append(
                        torch.cat([p.grad.flatten() for p in o.param_groups[0]["params"]])
                    )
                )
                private.step(one, labels[b : b + 1], cross_entropy)
            assert grads[0].double().norm() * EXPECTED <= bound


def test_class_weights_come_before_clipping():
    module, inputs, labels = setting()
    weight = torch.tensor([0.1, 1.0, 20.0])

    def weighted(output, labels):
        return functional.cross_entropy(output, labels, weight=weight, reduction="none")

    assert released(module, inputs, labels, weighted).norm() <= len(labels) * BOUND
    ones = [released(module, tuple(x[b : b + 1] for x in inputs), labels[b : b + 1], weighted)
            for b in range(len(labels))]  # fmt: skip
    assert all(one.norm() <= BOUND * (1 + 1e-5) for one in ones)
    assert any(one.norm() < BOUND * 0.9 for one in ones)


class TestNoise:
    def drawn(self, size=0, noise=None, **changes):
        torch.manual_seed(0)
        module = nn.Linear(300, 100)
        x, y = torch.randn(size, 300), torch.randint(0, 3, (size,))
        return released(module, (x,), y, noise=noise or InjectedNoise(7), **changes), (module, x, y)

    @pytest.mark.parametrize(("multiplier", "bound"), [(1.5, 0.5), (0.3, 4.0)])
    def test_has_the_promised_standard_deviation(self, multiplier, bound):
        values, _ = self.drawn(noise_multiplier=multiplier, max_grad_norm=bound)
        assert values.std().item() == pytest.approx(multiplier * bound, rel=0.02)
        assert stats.kstest(values.numpy() / (multiplier * bound), "norm").pvalue > 1e-6

    def test_is_as_large_on_an_empty_batch_as_on_a_full_one(self):
        empty, _ = self.drawn()
        full, (module, x, y) = self.drawn(size=20)
        noise = full - released(module, (x,), y)
        torch.testing.assert_close(noise, empty, rtol=1e-4, atol=1e-4)

    def test_is_added_once_when_a_batch_is_split(self):
        whole, _ = self.drawn(size=20)
        parts, _ = self.drawn(size=20, max_physical_batch=3)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)

    def test_is_new_in_every_step_and_for_every_parameter(self):
        module, inputs, labels = setting()
        source = InjectedNoise(1)
        a = released(module, inputs, labels, noise=source)
        b = released(module, inputs, labels, noise=source)
        assert (a - b).abs().min() > 0
        empty, _ = self.drawn()
        assert len(empty.unique()) > 0.9 * len(empty)

    def test_real_noise_cannot_be_repeated(self):
        (first, _), (second, _) = (self.drawn(noise=SystemNoise()) for _ in range(2))
        assert (first - second).norm() > 1.0

    def test_is_divided_by_the_expected_and_not_by_the_drawn_size(self):
        module, inputs, labels = setting()
        twice = tuple(torch.cat([x, x]) for x in inputs)
        once = released(module, inputs, labels)
        both = released(module, twice, torch.cat([labels, labels]))
        torch.testing.assert_close(both, 2 * once, rtol=1e-5, atol=1e-5)

    def test_a_hook_of_the_optimiser_comes_after_it(self):
        # This is where a proximal term is added: it looks at parameters and not at data.
        module, inputs, labels = setting()
        optimiser = sgd(module)
        seen = []
        optimiser.register_step_pre_hook(
            lambda o, *_: seen.append(o.param_groups[0]["params"][0].grad.clone())
        )
        with opened(module, optimiser, noise=InjectedNoise(3)) as private:
            private.step(tuple(x[:0] for x in inputs), labels[:0], cross_entropy)
        first = module[0].weight
        std = NOISE * BOUND / EXPECTED
        assert seen[0].shape == first.shape
        assert seen[0].std().item() == pytest.approx(std, rel=0.5)


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.AdamW])
def test_other_optimisers_step_on_the_noised_gradient(optimiser):
    module, inputs, labels = setting()
    before = flat(module)
    wrapped = optimiser(module.parameters(), lr=0.01)
    with opened(module, wrapped, noise=InjectedNoise(1)) as private:
        for _ in range(3):
            private.step(inputs, labels, cross_entropy)
    assert wrapped.state[module[0].weight]["step"] == 3
    assert (flat(module) - before).abs().max() > 0.01


class TestRefusals:
    @pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("name", ["mlp", "cnn", "lstm"])
    def test_gradients_that_are_not_finite(self, name, poison):
        module, inputs, labels = setting(name)
        before = flat(module)
        clean = tuple(x.clone() for x in inputs)
        inputs[0][3] = poison
        expected = released(module, clean, labels)
        with opened(module) as private:
            for size in (len(labels), 2):  # the poison may be in a later part of the batch
                private._max_physical_batch = size
                with pytest.raises(PrivacyError, match="not finite"):
                    private.step(inputs, labels, cross_entropy)
                assert torch.equal(flat(module), before)
            # Nothing of the failed steps is left in the next one.
            private.step(clean, labels, cross_entropy)
        found = (before.double() - flat(module).double()) * EXPECTED
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_a_loss_over_the_whole_batch(self):
        module, inputs, labels = setting()
        for loss in (functional.cross_entropy, lambda out, y: cross_entropy(out, y).unsqueeze(1)):
            with opened(module) as private, pytest.raises(PrivacyError, match="per example"):
                private.step(inputs, labels, loss)

    @pytest.mark.parametrize(
        "layer",
        [
            nn.BatchNorm1d(5),
            nn.BatchNorm1d(5, affine=False),
            nn.InstanceNorm1d(5, affine=True, track_running_stats=True),
        ],
        ids=["batch norm", "batch norm without parameters", "running statistics"],
    )
    def test_layers_that_mix_examples(self, layer):
        module = nn.Sequential(nn.Linear(5, 5), layer)
        with pytest.raises(PrivacyError, match="group norm"):
            opened(module)
        assert not any("forward" in vars(m) for m in module.modules())

    def test_a_parameter_that_is_not_used(self):
        class Spare(nn.Module):
            def __init__(self):
                super().__init__()
                self.used, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)

            def forward(self, x):
                return self.used(x)

        _, inputs, labels = setting()
        module = Spare()
        with opened(module) as private, pytest.raises(PrivacyError, match="per-example"):
            private.step(inputs, labels, cross_entropy)

    @pytest.mark.parametrize(
        ("name", "value"),
        list(
            itertools.product(
                ["noise_multiplier", "max_grad_norm", "expected_batch_size"],
                [0.0, -1.0, math.nan, math.inf, 5e-324],
            )
        ),
    )
    def test_settings_that_protect_nobody(self, name, value):
        with pytest.raises(PrivacyError, match="positive, finite"):
            opened(setting()[0], **{name: value})

    def test_an_optimiser_over_other_parameters(self):
        module, _, _ = setting()
        with pytest.raises(ValueError, match="exactly"):
            opened(module, torch.optim.SGD(list(module.parameters())[:-1], lr=1.0))

    def test_two_at_once_on_one_module(self):
        module, inputs, labels = setting()
        with opened(module) as private:
            with pytest.raises(ValueError, match="twice"):
                opened(module)
            private.step(inputs, labels, cross_entropy)


class TestPoissonSampling:
    def batches(self, n=50, rate=0.2, steps=4000, noise=None):
        return list(poisson_batches(n, rate, steps, noise or InjectedNoise(5)))

    def test_each_example_is_drawn_at_the_rate_and_independently(self):
        drawn = torch.zeros(4000, 50, dtype=torch.float64)
        for step, batch in enumerate(self.batches()):
            drawn[step, batch] = 1.0
        assert drawn.mean().item() == pytest.approx(0.2, abs=0.005)
        assert stats.chisquare(drawn.sum(dim=0).numpy()).pvalue > 1e-6
        # A batch's size is binomial, so its variance is n q (1 - q); fixed sizes would have none.
        assert drawn.sum(dim=1).var().item() == pytest.approx(50 * 0.2 * 0.8, rel=0.1)

    def test_indices_are_sorted_distinct_integers(self):
        for batch in self.batches(steps=50):
            assert batch.dtype == torch.int64
            assert torch.equal(batch, batch.unique())

    def test_a_rate_of_one_draws_everybody(self):
        assert all(len(batch) == 50 for batch in self.batches(rate=1.0, steps=20))

    def test_small_rates_draw_empty_batches_and_count_them_as_steps(self):
        batches = self.batches(n=3, rate=0.05, steps=200)
        assert len(batches) == 200
        assert any(len(batch) == 0 for batch in batches)

    def test_nobody_there(self):
        assert [len(b) for b in self.batches(n=0, steps=3)] == [0, 0, 0]

    @pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
    def test_a_rate_that_is_no_probability_is_refused(self, rate):
        with pytest.raises(PrivacyError):
            self.batches(rate=rate)
