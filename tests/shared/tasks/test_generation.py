"""Images that are made: the loss, what is counted, the distance, what one patient can change."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from scipy.linalg import sqrtm
from torch import nn

from wardround_shared.errors import RunError, StudyError
from wardround_shared.models import build_model, flatten
from wardround_shared.privacy.dp_sgd import DpSgd
from wardround_shared.study import DcGan
from wardround_shared.tasks import Generation, adversaries
from wardround_shared.tasks.features import FEATURES, LEVELS, RandomFeatures
from wardround_shared.tasks.frechet import distance, moments, moments_length

DATA = Path(os.environ.get("WARDROUND_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
CHESTS = DATA / "pneumoniamnist" / "pneumoniamnist_trainval.npz"
CLASSES = ("round", "square")
TASK = Generation(CLASSES)


def network(shape=(1, 20, 28), classes=2):
    torch.manual_seed(0)
    task = Generation(tuple(map(str, range(classes))))
    model = DcGan.model_validate({"name": "dcgan", "width": 4, "generator-width": 4, "latent": 5})
    return task.headed(build_model(model, (shape,), classes))


def images(n, seed=0, shape=(1, 20, 28)):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


class TestModel:
    @pytest.mark.parametrize(
        "shape", [(1, 8, 8), (1, 9, 17), (3, 28, 28), (1, 64, 64), (1, 33, 130)]
    )
    def test_what_is_made_has_the_shape_of_what_is_real(self, shape):
        both = adversaries(network(shape))
        made = both.made(torch.tensor([0, 1, 1]), chance())
        assert made.shape == (3, *shape)
        assert made.min() >= 0
        assert made.max() <= 1
        assert both(made).shape == (3, 2)

    def test_the_class_and_the_latent_numbers_make_the_image(self):
        both = adversaries(network())
        one, other = (both.made(torch.tensor([k]), chance()) for k in (0, 1))
        again = both.made(torch.tensor([0]), chance())
        third = both.made(torch.tensor([0]), chance(1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert not torch.equal(one, third)

    def test_images_alone_are_taken(self):
        model = DcGan(name="dcgan")
        with pytest.raises(StudyError, match="images alone"):
            build_model(model, ((1, 28, 28), (2,)), 2)
        with pytest.raises(StudyError, match="at least 8 x 8"):
            build_model(model, ((1, 7, 28),), 2)

    def test_opacus_accepts_what_sites_train(self):
        assert ModuleValidator.is_valid(network().train())


class TestPosed:
    def test_each_real_image_brings_a_made_one_of_its_class_and_patient(self):
        module, real = network().train(), images(3)
        targets, patients = torch.tensor([1, 0, 1]), torch.tensor([7, 7, 9])
        (both,), answers, whose = TASK.posed(module, (real,), targets, patients, chance())
        assert torch.equal(both[:3], real)
        assert torch.equal(both[3:], adversaries(module).made(targets, chance()))
        assert answers.tolist() == [1, 0, 1, -2, -1, -2]
        assert whose.tolist() == [7, 7, 9, 7, 7, 9]

    def test_where_records_are_the_unit_each_image_goes_with_its_own(self):
        _, _, whose = TASK.posed(network(), (images(2),), torch.tensor([0, 0]), None, chance())
        assert whose.tolist() == [0, 1, 0, 1]

    def test_nobody_drawn_is_no_image(self):
        (both,), answers, whose = TASK.posed(
            network().train(), (images(0),), torch.zeros(0, dtype=torch.int64), None, chance()
        )
        assert len(both) == len(answers) == len(whose) == 0

    def test_one_patient_moves_the_discriminator_within_the_bound_and_the_generator_never(self):
        """Algorithm 1 of Abadi et al. with patients' images scaled up a thousandfold."""
        bound = 0.5

        def moved(drawn):
            module = copy.deepcopy(network().train())
            trained = [p for p in module.parameters() if p.requires_grad]
            optimiser = torch.optim.SGD(trained, lr=1.0)
            before = flatten(module)

            real, targets = 1000.0 * images(4, seed=3), torch.tensor([0, 1, 1, 0])
            patients = torch.tensor([5, 5, 6, 8])
            rows = torch.tensor(drawn)
            (both,), answers, whose = TASK.posed(
                module, (real[rows],), targets[rows], patients[rows], chance(4)
            )
            with DpSgd(
                module,
                optimiser,
                noise_multiplier=1e-12,
                max_grad_norm=bound,
                expected_batch_size=1.0,
                noise=NoNoise(),
            ) as private:
                private.step((both,), answers, lambda out, to: TASK.loss(out, to, None), whose)
            return before, flatten(module), module

        before, alone, module = moved([0, 1])
        size = sum(p.numel() for p in adversaries(module).discriminator.parameters())
        assert torch.equal(alone[size:], before[size:])
        assert 0.9 * bound < (alone - before).norm() <= bound * 1.0001
        _, empty, _ = moved([2])
        _, joined, _ = moved([2, 3])
        assert (joined - empty).norm() <= bound * 1.0001


class NoNoise:
    """A noise source that adds nothing: what patients do stands alone."""

    def normal(self, shape, std, *, device, dtype):
        return torch.zeros(shape, device=device, dtype=dtype)

    def uniform(self, n):
        raise AssertionError("nothing is drawn in a step")


class TestLoss:
    def test_real_images_are_to_be_high_at_their_class_and_made_ones_low(self):
        outputs = torch.tensor([[2.0, -5.0], [2.0, -5.0], [1.0, 3.0]], dtype=torch.float64)
        found = TASK.loss(outputs, torch.tensor([0, -1, -2]), None)
        wanted = [np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0)), np.log1p(np.exp(3.0))]
        assert found.tolist() == pytest.approx(wanted)


class TestCounts:
    def test_counts_of_parts_add_up_to_those_of_all(self):
        module, targets = network().eval(), np.array([0, 1, 1, 0, 1])
        with torch.inference_mode():
            found = TASK.predictions(module(images(5))).numpy()
            alone = TASK.predictions(module(images(5)[3:4])).numpy()
        assert np.allclose(alone[0], found[3], atol=1e-5)  # an image is not measured by others
        whole = TASK.count(found, targets)
        parts = TASK.count(found[:2], targets[:2]) + TASK.count(found[2:], targets[2:])
        assert whole.shape == (TASK.counts_length,)
        assert np.allclose(whole, parts)
        integral = np.delete(whole, 1)
        assert np.array_equal(integral, np.rint(integral))
        assert np.abs(integral[1:]).max() <= 5 * TASK.largest_count

    def test_each_image_is_compared_with_a_made_one_of_its_own_class(self):
        found = np.zeros((2, 2 * 2 + 3 * FEATURES))
        found[:, 0:2] = [[1.0, -1.0], [1.0, -1.0]]  # real: only right as the first class
        found[:, 2:4] = [[-3.0, 3.0], [-3.0, 3.0]]  # made: told apart only as the first class
        found[:, 4 + FEATURES :] = np.repeat([[10.0, 20.0]], FEATURES, axis=1)
        first = TASK.count(found[:1], np.array([0]))
        second = TASK.count(found[:1], np.array([1]))
        assert first[2:4].tolist() == [1, 1]
        assert second[2:4].tolist() == [0, 0]
        of_made = 4 + moments_length(FEATURES)
        assert first[of_made] == 10
        assert second[of_made] == 20

    def test_a_number_that_is_none_stops_the_run(self):
        found = np.zeros((1, 4 + 3 * FEATURES))
        found[0, 5] = np.nan
        with pytest.raises(RunError, match="not finite"):
            TASK.count(found, np.array([0]))

    def test_few_images_have_no_distance(self):
        metrics = TASK.metrics(np.zeros(TASK.counts_length))
        assert metrics["frechet"] is None
        assert metrics["told_apart"] is None
        counts = np.zeros(TASK.counts_length)
        counts[0] = 2 * FEATURES - 1
        assert TASK.metrics(counts)["frechet"] is None


class TestDistance:
    def test_it_is_that_of_the_formula(self):
        random = np.random.default_rng(0)
        one = random.normal(size=(200, 6)) @ random.normal(size=(6, 6))
        other = random.normal(size=(200, 6)) @ random.normal(size=(6, 6)) + 1.5
        spread = [np.cov(some.T, bias=True) for some in (one, other)]
        shift = one.mean(axis=0) - other.mean(axis=0)
        wanted = shift @ shift + np.trace(
            spread[0] + spread[1] - 2 * sqrtm(spread[0] @ spread[1]).real
        )
        found = distance(200, moments(4 * one), moments(4 * other), unit=4.0)
        assert found == pytest.approx(wanted, rel=1e-6)

    def test_the_same_images_are_at_no_distance_and_sums_of_sites_are_enough(self):
        some = np.random.default_rng(1).normal(size=(90, 5))
        there_and_back = distance(90, moments(some), moments(some[::-1]), unit=1.0)
        assert there_and_back == pytest.approx(0, abs=1e-9)
        sites = moments(some[:30]) + moments(some[30:])
        assert np.allclose(sites, moments(some))


class TestFeatures:
    def test_they_are_whole_numbers_in_their_range_and_the_same_everywhere(self):
        first, second = RandomFeatures()(images(4)), RandomFeatures()(images(4))
        assert torch.equal(first, second)
        assert torch.equal(first, first.round())
        assert first.abs().max() <= LEVELS
        assert not list(RandomFeatures().parameters())
        assert not RandomFeatures().state_dict()

    def test_known_values(self):
        """Another weight or another order of random numbers would make runs incomparable."""
        grey = torch.linspace(0, 1, 28 * 28).view(1, 1, 28, 28)
        assert RandomFeatures()(grey)[0, :6].tolist() == [-4, -9, 15, 6, 3, -7]

    def test_blurred_images_are_nearer_than_noise(self):
        real = torch.nn.functional.avg_pool2d(images(200), 5, 1, 2)
        blurred = nn.functional.avg_pool2d(real, 3, 1, 1)
        features = RandomFeatures()
        one, near, far = (
            moments(features(some).double().numpy()) for some in (real, blurred, images(200, 9))
        )
        assert distance(200, one, near, unit=8.0) < distance(200, one, far, unit=8.0)


@pytest.mark.skipif(not CHESTS.is_file(), reason="the data set pneumoniamnist is not here")
def test_distances_between_real_images_that_the_documentation_names():
    arrays = np.load(CHESTS)
    order = np.random.default_rng(0).permutation(len(arrays["train_images"]))
    real = torch.from_numpy(arrays["train_images"][order]).float().div(255)[:, None]
    labels = arrays["train_labels"][order, 0]

    def apart(one, other):
        n = min(len(one), len(other))
        found = (moments(RandomFeatures()(some[:n]).double().numpy()) for some in (one, other))
        return distance(n, *found, unit=LEVELS / 4.0)

    others = real[500:1000]
    blurred = nn.functional.avg_pool2d(real[:500], 5, 1, 2)
    assert apart(real[:500], others) == pytest.approx(0.06, abs=0.02)
    assert apart(blurred, others) == pytest.approx(0.5, abs=0.1)
    assert apart(real[labels == 0], real[labels == 1]) == pytest.approx(3.2, abs=0.2)
    assert apart(torch.rand_like(others), others) == pytest.approx(10.6, abs=0.5)
