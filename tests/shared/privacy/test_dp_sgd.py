"""DP-SGD under attack: what one unit can do, what the noise hides, what is refused."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from pydantic import ValidationError
from scipy import stats
from torch import nn
from torch.nn import functional

from wardround_shared.errors import PrivacyError
from wardround_shared.models import build_model
from wardround_shared.privacy import DpSgd, InjectedNoise, SystemNoise
from wardround_shared.study import Bilstm, Cnn, Cnn1d, CnnLstm, DcGan, Gru, Lstm, Mlp, Privacy

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


class Recurrences(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2, 5, batch_first=True)
        self.dense = nn.Linear(5, 3)

    def forward(self, main):
        return self.dense(self.gru(main)[0].mean(dim=1))


class Several(nn.Module):
    """A dense layer that sees positions and is used twice, and ghost norms of a convolution."""

    def __init__(self):
        super().__init__()
        self.front = nn.Conv1d(60, 80, 3)
        self.twice = nn.Linear(80, 80)
        self.dense = nn.Linear(80, 3)

    def forward(self, main):
        states = self.front(main).transpose(1, 2)
        return self.dense(self.twice(self.twice(states).tanh()).mean(dim=1))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 36, 16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


MODELS = {
    "wide": (
        lambda: nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 3)),
        lambda n: (torch.randn(n, 300),),
    ),
    "mlp": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)),
        lambda n: (torch.randn(n, 5),),
    ),
    "cnn": (cnn, lambda n: (torch.randn(n, 1, 12, 12),)),
    "lstm": (Recurrent, lambda n: (torch.randn(n, 2, 30), torch.randn(n, 3))),
    "mixed": (Mixed, lambda n: (torch.randint(0, 10, (n, 7)),)),
}

LAYERS = MODELS | {
    "gru": (Recurrences, lambda n: (torch.randn(n, 9, 2),)),
    "several": (Several, lambda n: (torch.randn(n, 60, 4),)),
    "channels last": (
        lambda: build_model(Cnn(name="cnn", width=8), ((1, 20, 24),), 3),
        lambda n: (torch.randn(n, 1, 20, 24),),
    ),
}


def cross_entropy(output, labels):
    return functional.cross_entropy(output, labels, reduction="none")


def setting(name="mlp", n=6):
    torch.manual_seed(11)
    make, draw = LAYERS[name]
    return make(), draw(n), torch.randint(0, 3, (n,))


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=1.0)


def opened(module, optimiser=None, noise=None, **changes):
    values = {
        "noise_multiplier": NOISE,
        "max_grad_norm": BOUND,
        "expected_batch_size": EXPECTED,
        "noise": noise or NoNoise(),
    }
    return DpSgd(module, optimiser or sgd(module), **values | changes)


def released(module, inputs, labels, loss=cross_entropy, *, noise=None, patients=None, **changes):
    """What one step adds to the parameters, as (sum + noise): learning rate 1, undone division."""
    module = copy.deepcopy(module)
    before = flat(module).double()
    with opened(module, noise=noise, **changes) as private:
        private.step(inputs, labels, loss, patients)
    return (before - flat(module).double()) * EXPECTED


def without(inputs, labels, patients, left_out):
    """The batch without one patient."""
    kept = patients != left_out
    return tuple(x[kept] for x in inputs), labels[kept], patients[kept]


def distance(module, inputs, labels, patients, left_out, **changes):
    """How far one patient moves the sum before noise."""
    rest_inputs, rest_labels, rest = without(inputs, labels, patients, left_out)
    whole = released(module, inputs, labels, patients=patients, **changes)
    part = released(module, rest_inputs, rest_labels, patients=rest, **changes)
    return (whole - part).norm().item()


def summed(module, inputs, labels, loss=cross_entropy, **changes):
    """The gradient that the wrapped optimiser gets, undone division: not rounded as parameters."""
    patients = changes.pop("patients", None)
    module, found = copy.deepcopy(module), []
    with opened(module, **changes) as private:
        private._optimiser.original_optimizer.register_step_pre_hook(
            lambda o, *_: found.append(
                torch.cat([p.grad.flatten() for p in o.param_groups[0]["params"]])
            )
        )
        private.step(inputs, labels, loss, patients)
    return found[0].double() * EXPECTED


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


@pytest.mark.parametrize("name", MODELS)
class TestPatients:
    @settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        patients=st.lists(st.integers(-3, 3), min_size=1, max_size=9), log_bound=st.integers(-3, 3)
    )
    def test_sum_is_that_of_clipped_gradients_of_patients(
        self, name, patients, log_bound, patient_gradients, clipped_sum
    ):
        patients, bound = torch.tensor(patients), 10.0**log_bound
        module, inputs, labels = setting(name, n=len(patients))
        gradients = patient_gradients(
            module,
            inputs,
            lambda out, b: functional.cross_entropy(out, labels[b], reduction="sum"),
            patients,
        )
        truth = torch.cat([g.flatten() for g in clipped_sum(gradients, bound).values()])
        gradient = summed(module, inputs, labels, patients=patients, max_grad_norm=bound)
        assert (gradient - truth).norm() <= 1e-5 * truth.norm()

    def test_everybody_alone_is_the_record_unit(self, name):
        module, inputs, labels = setting(name)
        alone = released(module, inputs, labels, patients=torch.tensor([5, -1, 3, 0, 9, 7]))
        torch.testing.assert_close(alone, released(module, inputs, labels), rtol=1e-4, atol=1e-5)

    def test_the_order_of_examples_changes_nothing(self, name):
        module, inputs, labels = setting(name)
        patients = torch.tensor([1, 2, 1, 0, 2, 2])
        order = torch.tensor([4, 0, 3, 5, 2, 1])
        whole = released(module, inputs, labels, patients=patients)
        mixed = released(
            module, tuple(x[order] for x in inputs), labels[order], patients=patients[order]
        )
        torch.testing.assert_close(mixed, whole, rtol=1e-5, atol=1e-5)

    def test_splitting_a_batch_splits_no_patient(self, name):
        module, inputs, labels = setting(name)
        patients = torch.tensor([1, 2, 1, 0, 2, 2])
        whole = released(module, inputs, labels, patients=patients)
        for size in (1, 2, 3, 4, 5):
            parts = released(module, inputs, labels, patients=patients, max_physical_batch=size)
            torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)

    def test_one_patient_changes_the_sum_by_at_most_the_bound(self, name):
        module, inputs, labels = setting(name)
        patients = torch.tensor([1, 2, 1, 0, 2, 2])
        for left_out in range(3):
            assert distance(module, inputs, labels, patients, left_out) <= BOUND * (1 + 1e-5)

    def test_a_patient_with_all_examples_is_held_by_the_bound(self, name):
        module, inputs, labels = setting(name)
        patients = torch.full((6,), 4)
        assert released(module, inputs, labels, patients=patients).norm() <= BOUND * (1 + 1e-5)

    def test_nobody_moves_nothing(self, name):
        module, inputs, labels = setting(name, n=0)
        nobody = torch.empty(0, dtype=torch.int64)
        assert released(module, inputs, labels, patients=nobody).norm() == 0

    def test_nothing_of_examples_is_left_behind(self, name):
        module, inputs, labels = setting(name)
        with opened(module) as private:
            private.step(inputs, labels, cross_entropy, torch.tensor([1, 2, 1, 0, 2, 2]))
            for p in module.parameters():
                assert p.grad is None
                assert p.grad_sample is None
            assert not any("activations" in vars(m) for m in module.modules())
            assert private._module.batch.units is None
            assert not private._module.batch.uses
            assert private._optimiser._sum is None


STUDY_MODELS = {
    "bilstm": (
        Bilstm(name="bilstm", buckets=64, embedding=6, hidden=5),
        ((2, 12), (3,)),
    ),
    "cnn1d": (Cnn1d(name="cnn1d", width=4, blocks=3), ((3, 50), (2,))),
    "gru": (Gru(name="gru", hidden=8, layers=2, bidirectional=True), ((2, 20), (3,))),
    "cnn-lstm": (CnnLstm(name="cnn-lstm", width=4, blocks=2, hidden=8), ((2, 40),)),
    # Values, masks and gaps of nine features, eight time points, age and sex.
    "gru on records": (Gru(name="gru", hidden=8), ((27, 8), (3,))),
    "lstm on records": (Lstm(name="lstm", hidden=8), ((27, 8), (3,))),
    "mlp": (Mlp(name="mlp", hidden=(32, 16)), ((13,), (4,))),
    "cnn": (Cnn(name="cnn", width=8), ((1, 20, 24),)),  # channels last in memory
    "lstm": (Lstm(name="lstm", hidden=16, layers=2), ((2, 20), (3,))),
    "lstm with a front": (
        Lstm(name="lstm", hidden=16, bidirectional=True, front=12),
        ((2, 40),),
    ),
    "dcgan": (DcGan(name="dcgan", width=4), ((1, 20, 24),)),
}


@pytest.mark.parametrize("sizes", [(1,) * 10, (2,) * 5, (4, 1, 3, 2), (10,)], ids=str)
@pytest.mark.parametrize("name", STUDY_MODELS)
def test_a_studys_model_is_clipped_by_patient(name, sizes, patient_gradients, clipped_sum):
    torch.manual_seed(3)
    model, shapes = STUDY_MODELS[name]
    module = build_model(model, shapes, 3)
    if name == "dcgan":
        module = module.discriminator  # what a site trains
    inputs, labels = tuple(torch.randn(10, *shape) for shape in shapes), torch.randint(0, 3, (10,))
    if name == "bilstm":  # few different words, so that a patient has one more than once
        ends = torch.randint(1, 13, (10, 1, 1))
        inputs = (torch.randint(1, 9, inputs[0].shape) * (torch.arange(12) < ends), *inputs[1:])
    patients = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    gradients = patient_gradients(
        module,
        inputs,
        lambda out, b: functional.cross_entropy(out, labels[b], reduction="sum"),
        patients,
    )
    for bound in (0.01, 1.0, 100.0):
        truth = torch.cat([g.flatten() for g in clipped_sum(gradients, bound).values()])
        found = summed(module, inputs, labels, patients=patients, max_grad_norm=bound)
        assert (found - truth).norm() <= 1e-5 * truth.norm()


class TestOneHugePatient:
    @pytest.mark.parametrize("name", ["mlp", "wide", "cnn", "lstm"])
    @pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
    def test_a_hundred_examples_are_held_by_the_bound(self, name, scale):
        module, inputs, labels = setting(name, n=106)
        patients = torch.cat([torch.tensor([1, 2, 1, 0, 2, 2]), torch.full((100,), 7)])
        inputs[0][6:] *= scale
        assert distance(module, inputs, labels, patients, 7) <= BOUND * (1 + 1e-4)

    @pytest.mark.parametrize("name", ["mlp", "wide", "cnn"])
    @pytest.mark.parametrize("rest", [0.0, 1e-6, 1e-4, 1e-2])
    def test_huge_examples_that_cancel_are_held_by_the_bound(self, name, rest):
        # Their sum is small and their products are huge: where norms come from products, rounding
        # must not make them vanish.
        module, inputs, labels = setting(name, n=20)
        inputs[0][1::2] = inputs[0][::2]
        signs = torch.tensor([1.0, -1.0]).repeat(10) * 1e5
        signs[1::2] *= 1.0 + rest

        def loss(output, labels):
            return cross_entropy(output, labels[::2].repeat_interleave(2)) * signs

        gradient = summed(module, inputs, labels, loss, patients=torch.zeros(20, dtype=torch.int64))
        assert gradient.norm() <= BOUND * (1 + 1e-6)

    def test_does_not_silence_the_others(self):
        module, inputs, labels = setting()
        patients = torch.tensor([0, 0, 0, 1, 1, 2])
        rest = released(module, *without(inputs, labels, patients, 0)[:2],
                        patients=patients[3:])  # fmt: skip
        inputs[0][:3] *= 1e6
        alone = released(module, tuple(x[:3] for x in inputs), labels[:3], patients=patients[:3])
        together = released(module, inputs, labels, patients=patients)
        torch.testing.assert_close(together, alone + rest, rtol=1e-4, atol=1e-4)


def test_the_paths_of_all_layers_are_told():
    module, inputs, labels = setting("mixed")
    with opened(module) as private:
        private.step(inputs, labels, cross_entropy, torch.tensor([1, 2, 1, 0, 2, 2]))
        paths = dict(private.paths())
    assert paths["norm"] == "Opacus' hooks"
    assert paths["embedding"] == "book-keeping, rows looked up"
    assert paths["dense"].startswith("book-keeping")


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


POISONS = [math.nan, math.inf, -math.inf, 1e30]  # the last one is finite, its square is not


def weighted(weights):
    """Each example's loss times a weight: 0 takes it out, and what is not finite spoils it."""
    return lambda output, labels: cross_entropy(output, labels) * weights


@pytest.mark.parametrize("name", LAYERS)
class TestGradientsThatAreNotFinite:
    patients = torch.tensor([0, 1, 1, 2, 2, 2])  # in order already, so that weights stay theirs

    @pytest.mark.parametrize("poison", POISONS)
    @pytest.mark.parametrize("patients", [None, patients], ids=["record", "patient"])
    def test_of_one_unit_leave_the_sum_of_the_others(self, name, patients, poison):
        module, inputs, labels = setting(name)
        theirs = torch.arange(6) == 3 if patients is None else patients == 2
        weights = torch.ones(6)
        weights[theirs] = 0.0
        without_them = summed(module, inputs, labels, weighted(weights), patients=patients)
        assert without_them.norm() > BOUND / 100
        # One poisoned example is enough to lose the whole unit.
        weights[theirs] = 1.0
        weights[theirs.nonzero()[-1]] = poison
        with_them = summed(module, inputs, labels, weighted(weights), patients=patients)
        assert (with_them - without_them).norm() == 0

        kept = ~theirs
        left_out = summed(
            module, tuple(x[kept] for x in inputs), labels[kept],
            patients=None if patients is None else patients[kept],
        )  # fmt: skip
        # A smaller batch: the same numbers in another order of additions.
        assert (with_them - left_out).norm() <= 1e-6 * left_out.norm()

    def test_are_left_out_of_a_split_batch_too(self, name):
        module, inputs, labels = setting(name)
        weights = iter([torch.ones(2), torch.tensor([1.0, math.nan]), torch.ones(2)])

        def loss(output, labels):
            return cross_entropy(output, labels) * next(weights)

        found = summed(module, inputs, labels, loss, max_physical_batch=2)
        kept = [0, 1, 2, 4, 5]
        expected = summed(module, tuple(x[kept] for x in inputs), labels[kept])
        assert (found - expected).norm() <= 1e-6 * expected.norm()

    @pytest.mark.parametrize("poison", POISONS)
    def test_of_all_units_leave_noise_only(self, name, poison):
        module, inputs, labels = setting(name)
        bad = weighted(torch.full((6,), poison))
        found = summed(module, inputs, labels, bad, noise=InjectedNoise(5), patients=self.patients)
        nobody = tuple(x[:0] for x in inputs)
        noise = summed(module, nobody, labels[:0], noise=InjectedNoise(5))
        assert torch.equal(found, noise)

    def test_of_a_diverged_model_leave_noise_only(self, name):
        module, inputs, labels = setting(name)
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(math.nan)
        found = summed(module, inputs, labels, noise=InjectedNoise(5), patients=self.patients)
        nobody = tuple(x[:0] for x in inputs)
        noise = summed(module, nobody, labels[:0], noise=InjectedNoise(5))
        assert torch.equal(found, noise)

    def test_leave_nothing_for_the_next_step(self, name):
        module, inputs, labels = setting(name)
        expected = released(module, inputs, labels)
        before = flat(module).double()
        with opened(module) as private:
            private.step(inputs, labels, weighted(torch.full((6,), math.nan)))
            assert torch.equal(flat(module).double(), before)
            private.step(inputs, labels, cross_entropy)
        found = (before - flat(module).double()) * EXPECTED
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "mixed"])  # takes tokens
def test_poisoned_inputs_leave_the_sum_of_the_others(name, poison):
    module, inputs, labels = setting(name)
    patients = torch.tensor([0, 1, 1, 2, 2, 2])
    others = weighted((patients != 2).float())
    without_them = summed(module, inputs, labels, others, patients=patients)
    inputs[0][4, ..., 1] = poison
    moved = (summed(module, inputs, labels, patients=patients) - without_them).norm()
    if math.isfinite(poison):  # group norm, and gates that saturate, make finite gradients of it
        assert moved <= BOUND * (1 + 1e-5)
    else:
        assert moved == 0


@pytest.mark.parametrize("huge", [1.0, 1e6, 1e12, 1e16, 1e18])
@pytest.mark.parametrize("loss_scale", [1e-12, 1e-18, 1e-22, 1e-30])
@pytest.mark.parametrize("patients", [(0, 1, 2, 3, 4, 5), (1, 2, 1, 0, 2, 2)], ids=str)
def test_a_saturated_models_gradients_are_held_by_the_least_bound(huge, loss_scale, patients):
    # Tiny at the output and huge at the input: a product beyond the bound of factors whose squares
    # are nothing in float32.
    least, patients = 1e-6, torch.tensor(patients)
    for name in ("mlp", "wide"):
        module, inputs, labels = setting(name)
        first = module[0]
        with torch.no_grad():
            first.weight.mul_(1.0 / huge)
        inputs[0][patients == 0] *= huge
        weights = torch.where(patients == 0, loss_scale, 0.0)
        gradient = summed(
            module, inputs, labels, weighted(weights), patients=patients, max_grad_norm=least
        )
        assert gradient.norm() <= least * (1 + 1e-5)


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

    @pytest.mark.parametrize("name", ["mlp", "wide"])
    def test_is_new_in_every_step_of_one_training(self, name):
        # A small model's noise is drawn for about a hundred steps at once, a large one's for each.
        module, inputs, labels = setting(name, n=0)
        optimiser, seen = sgd(module), []
        optimiser.register_step_pre_hook(
            lambda o, *_: seen.append(
                torch.cat([p.grad.flatten() for p in o.param_groups[0]["params"]])
            )
        )
        steps = 250 if name == "mlp" else 3
        with opened(module, optimiser, noise=InjectedNoise(2)) as private:
            for _ in range(steps):
                private.step(inputs, labels, cross_entropy)
        noise = torch.stack(seen).double() * EXPECTED / (NOISE * BOUND)
        # A few of so many float32 are equal by chance.
        assert len(noise.unique()) > 0.99 * noise.numel()
        for ahead in (1, 2, steps - 1):
            product = (noise[ahead:] * noise[:-ahead]).mean().item()
            assert abs(product) < 6 / math.sqrt(noise[ahead:].numel())

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

    @pytest.mark.parametrize("bound", [1e-24, 0.99e-6, 1.01e6, 1e30])
    def test_bounds_that_float32_cannot_clip_to(self, bound):
        with pytest.raises(PrivacyError, match="max-grad-norm from 1e-06 to 1e"):
            opened(setting()[0], max_grad_norm=bound)
        with pytest.raises(ValidationError, match="than or equal to"):
            Privacy.model_validate({"mechanism": "dp-sgd", "max-grad-norm": bound})

    @pytest.mark.parametrize("bound", [1e-6, 1.0, 1e6])
    def test_not_the_bounds_that_a_study_may_have(self, bound):
        private = Privacy.model_validate({"mechanism": "dp-sgd", "max-grad-norm": bound})
        with opened(setting()[0], max_grad_norm=private.max_grad_norm):
            assert private.max_grad_norm == bound

    def test_an_optimiser_over_other_parameters(self):
        module, _, _ = setting()
        with pytest.raises(ValueError, match="exactly"):
            opened(module, torch.optim.SGD(list(module.parameters())[:-1], lr=1.0))

    def test_patients_of_other_examples(self):
        module, inputs, labels = setting()
        with opened(module) as private, pytest.raises(ValueError, match="as many patients"):
            private.step(inputs, labels, cross_entropy, torch.zeros(5, dtype=torch.int64))

    def test_a_model_that_folds_examples_into_other_dimensions(self):
        class Folded(nn.Module):
            def __init__(self):
                super().__init__()
                self.dense = nn.Linear(5, 3)

            def forward(self, x):
                return self.dense(x.view(-1, 5)).view(len(x), -1, 3).mean(dim=1)

        module, labels = Folded(), torch.tensor([0, 1])
        with opened(module) as private, pytest.raises(PrivacyError, match="sees 4 examples"):
            private.step((torch.randn(2, 10),), labels, cross_entropy)

    def test_a_dense_layers_output_that_is_changed_in_place(self):
        _, inputs, labels = setting()
        module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.ReLU(inplace=True))
        with opened(module) as private, pytest.raises(RuntimeError, match="in place"):
            private.step(inputs, labels, cross_entropy)

    def test_two_at_once_on_one_module(self):
        module, inputs, labels = setting()
        with opened(module) as private:
            with pytest.raises(ValueError, match="twice"):
                opened(module)
            private.step(inputs, labels, cross_entropy)
