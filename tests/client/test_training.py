"""Local training against the loop one would write by hand, and its edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from wardround_client.account import Plan
from wardround_client.training import (
    Examples,
    LocalTraining,
    Protection,
    evaluate,
    local_seed,
    train,
)
from wardround_shared.evaluation import metrics
from wardround_shared.models import build_model, flatten
from wardround_shared.privacy.noise import InjectedNoise, SystemNoise
from wardround_shared.study import Cnn, Privacy, Training
from wardround_shared.tasks import Classification, Segmentation

TASK = Classification(("a", "b"))


def _training(**keys) -> Training:
    return Training.model_validate({"rounds": 4, "learning-rate": 0.1, "batch-size": 4, **keys})


def _of(features: torch.Tensor, labels: torch.Tensor, patients=None) -> Examples:
    own = torch.arange(len(labels)) if patients is None else torch.tensor(patients)
    return Examples(parts=(features,), targets=labels, patients=own)


def _examples(count: int = 10, patients=None) -> Examples:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(count, 3, generator=generator)
    return _of(features, (features[:, 0] > 0).long(), patients)


def _protection(noise_multiplier=1e-9, units=1, **keys) -> Protection:
    """One step on everybody, with hardly any noise."""
    plan = Plan(
        units=units,
        sample_rate=1.0,
        steps_per_round=1,
        planned_steps=4,
        noise_multiplier=noise_multiplier,
    )
    privacy = Privacy.model_validate({"mechanism": "dp-sgd", **keys})
    return Protection(
        plan=plan, steps=plan.steps_per_round, privacy=privacy, noise=InjectedNoise(3)
    )


def _settings(training: Training, protection=None, **keys) -> LocalTraining:
    return LocalTraining(
        task=TASK,
        training=training,
        round=1,
        seed=11,
        class_counts=np.array([3.0, 7.0]),
        augmentation=None,
        protection=protection,
        **keys,
    )


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_plain_training_is_the_bare_loop_to_the_last_bit():
    examples, index = _examples(), torch.arange(10)
    settings = _settings(_training(**{"local-epochs": 2, "momentum": 0.9, "weight-decay": 0.01}))
    delta = train(_module(), examples, index, settings)

    module = _module()
    received = flatten(module)
    shuffle = torch.Generator().manual_seed(11)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=True
    )
    for _ in range(2):
        for batch in torch.randperm(10, generator=shuffle).split(4):
            optimiser.zero_grad()
            loss = functional.cross_entropy(
                module(examples.parts[0][batch]), examples.targets[batch]
            )
            loss.backward()
            optimiser.step()
    np.testing.assert_array_equal(delta, (flatten(module) - received).numpy())


def test_training_learns():
    examples, module = _examples(200), _module()
    index = torch.arange(200)
    before = metrics(evaluate(module, examples, index, TASK), ("a", "b"))
    train(module, examples, index, _settings(_training(**{"local-epochs": 20})))
    after = metrics(evaluate(module, examples, index, TASK), ("a", "b"))
    assert after["accuracy"] > 0.9 > before["accuracy"]


def test_only_the_training_split_is_touched():
    examples = _examples()
    spoiled = _of(examples.parts[0].clone(), examples.targets)
    spoiled.parts[0][7:] = float("nan")
    delta = train(_module(), spoiled, torch.arange(7), _settings(_training()))
    assert np.isfinite(delta).all()


def test_fedprox_pulls_towards_the_received_model():
    examples, index = _examples(), torch.arange(10)
    epochs = {"local-epochs": 20}
    free = train(_module(), examples, index, _settings(_training(**epochs)))
    strategy = {"strategy": "fedprox", "proximal": 1.0, **epochs}
    held = train(_module(), examples, index, _settings(_training(**strategy)))
    assert np.linalg.norm(held) < 0.8 * np.linalg.norm(free)


def test_balanced_weights_make_classes_count_alike():
    """Two examples of class 0 against eight of class 1: weights 5/2 and 5/8."""
    examples = _of(torch.ones(10, 3), torch.tensor([0] * 2 + [1] * 8))
    settings = LocalTraining(
        task=TASK,
        training=_training(**{"batch-size": 10, "class-weights": "balanced"}),
        round=1,
        seed=1,
        class_counts=np.array([2.0, 8.0]),
        augmentation=None,
        protection=None,
    )
    module = nn.Linear(3, 2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    delta = train(module, examples, torch.arange(10), settings)
    # At zero logits the weighted gradients of the two classes cancel exactly.
    np.testing.assert_allclose(delta, 0.0, atol=1e-7)


def test_cosine_schedule_starts_at_the_rate_and_falls():
    training = _training(**{"learning-rate-schedule": "cosine"})
    rates = [training.rate_in(number) for number in range(1, 5)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[2] == pytest.approx(0.05)


def test_seeds_differ_between_sites_rounds_and_runs():
    seeds = {local_seed(s, site, r) for s in (0, 1) for site in ("a", "b") for r in (1, 2)}
    assert len(seeds) == 8


@pytest.mark.parametrize("unit", ["patient", "record"])
@pytest.mark.parametrize(("examples", "batch"), [(1, 4), (3, 8), (10, 1)])
def test_private_training_works_for_any_cohort_and_batch(examples, batch, unit):
    """Cohorts smaller than a batch, batches of one, and empty Poisson samples."""
    plan = Plan(
        units=examples,
        sample_rate=min(1.0, batch / examples) * 0.3,
        steps_per_round=6,
        planned_steps=24,
        noise_multiplier=1.0,
    )
    privacy = Privacy.model_validate({"mechanism": "dp-sgd", "unit": unit})
    protection = Protection(
        plan=plan, steps=plan.steps_per_round, privacy=privacy, noise=InjectedNoise(3)
    )
    module = _module()
    delta = train(module, _examples(), torch.arange(examples), _settings(_training(), protection))
    assert np.isfinite(delta).all()
    assert np.abs(delta).max() > 0
    assert type(module) is nn.Linear
    assert not module._forward_hooks


def test_without_validation_examples_the_counts_are_zero():
    counts = evaluate(_module(), _examples(), torch.arange(0), TASK)
    assert not counts.any()


@pytest.mark.parametrize("unit", ["patient", "record"])
def test_a_private_step_goes_where_the_plain_one_goes(unit):
    # All examples in one step, a bound that clips nothing and hardly any noise: on a model whose
    # weights and gradients lie in memory in different orders.
    torch.manual_seed(0)
    images = torch.randn(16, 1, 12, 12)
    examples = _of(images, torch.arange(16) % 2, [number // 3 for number in range(16)])
    training = _training(**{"batch-size": 16, "learning-rate": 0.01})
    protection = _protection(units=16, unit=unit, **{"max-grad-norm": 100.0})
    cnn = Cnn.model_validate({"name": "cnn", "width": 4})
    deltas = []
    for protected in (None, protection):
        torch.manual_seed(1)
        module = build_model(cnn, ((1, 12, 12),), 2)
        deltas.append(train(module, examples, torch.arange(16), _settings(training, protected)))
    np.testing.assert_allclose(deltas[1], deltas[0], atol=1e-5)
    assert np.abs(deltas[0]).max() > 1e-3


def _clipped_by_hand(examples: Examples, groups: list[list[int]], bound: float) -> np.ndarray:
    """The step on groups of examples, each group's gradient clipped by itself."""
    module = _module()
    total = torch.zeros_like(flatten(module))
    for members in groups:
        parts, labels = examples.take(torch.tensor(members))
        module.zero_grad()
        functional.cross_entropy(module(*parts), labels, reduction="sum").backward()
        gradient = torch.cat([p.grad.flatten() for p in module.parameters()])
        total += gradient * min(1.0, bound / float(gradient.norm()))
    return (-0.1 * total / len(groups)).numpy()


def test_each_patient_is_clipped_as_a_whole():
    patients = [4, 4, 4, 4, 1, 1, 2, 3, 3, 3]
    examples = _examples(patients=patients)
    groups = [[i for i in range(10) if patients[i] == who] for who in sorted(set(patients))]
    protection = _protection(units=4, **{"max-grad-norm": 0.5})
    delta = train(_module(), examples, torch.arange(10), _settings(_training(), protection))
    np.testing.assert_allclose(delta, _clipped_by_hand(examples, groups, 0.5), atol=1e-6)

    by_record = _protection(units=10, unit="record", **{"max-grad-norm": 0.5})
    delta = train(_module(), examples, torch.arange(10), _settings(_training(), by_record))
    single = _clipped_by_hand(examples, [[i] for i in range(10)], 0.5)
    np.testing.assert_allclose(delta, single, atol=1e-6)


def test_a_patient_brings_no_more_examples_than_the_study_allows():
    # Equal examples, so that which of them are taken does not show.
    examples = _of(torch.ones(12, 3), torch.zeros(12, dtype=torch.int64), [0] * 11 + [1])
    settings = {"max-grad-norm": 100.0, "examples-per-patient": 3}
    protection = _protection(units=2, **settings)
    delta = train(_module(), examples, torch.arange(12), _settings(_training(), protection))
    expected = _clipped_by_hand(examples, [[0, 1, 2], [11]], 100.0)
    np.testing.assert_allclose(delta, expected, rtol=1e-4)


def test_only_the_training_split_of_a_patient_counts():
    examples = _examples(patients=[0] * 5 + [1] * 5)
    protection = _protection(units=1, **{"max-grad-norm": 0.5})
    delta = train(_module(), examples, torch.arange(5), _settings(_training(), protection))
    expected = _clipped_by_hand(examples, [[0, 1, 2, 3, 4]], 0.5)
    np.testing.assert_allclose(delta, expected, atol=1e-6)


def _drawn(settings: LocalTraining) -> list[list[float]]:
    """What augmentation and dropout draw in one training."""
    seen = []

    def augment(parts, targets, generator):
        seen.append(torch.rand(20, generator=generator).tolist())
        return parts, targets

    dropout = nn.Dropout(0.5)
    dropout.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.tolist()))
    torch.manual_seed(0)
    module = nn.Sequential(dropout, nn.Linear(3, 2))
    examples = _of(torch.ones(10, 3), torch.zeros(10, dtype=torch.int64))
    train(module, examples, torch.arange(10), replace(settings, augmentation=augment))
    return seen


def test_what_changes_examples_under_privacy_is_as_unforeseeable_as_the_noise():
    """Known draws by place in the batch would let one patient change everybody's gradient."""
    real = replace(_protection(units=10), noise=SystemNoise())
    seen = [_drawn(_settings(_training(), real)) for _ in range(3)]
    assert len({str(draws) for each in seen for draws in each}) == 6, "fresh in each round"
    injected = [_drawn(_settings(_training(), _protection(units=10))) for _ in range(2)]
    assert injected[0] == injected[1], "from the source of the noise and nothing else"


def test_without_privacy_what_changes_examples_follows_the_seed():
    settings = _settings(_training())
    assert _drawn(settings) == _drawn(settings)
    assert _drawn(settings) != _drawn(replace(settings, seed=12))


def test_pictures_are_counted_batch_by_batch_with_the_same_result():
    task = Segmentation(("outside", "inside"))
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(300, 1, 8, 8, generator=generator)
    targets = (torch.rand(300, 8, 8, generator=generator) > 0.5).to(torch.uint8)
    module, examples = nn.Conv2d(1, 2, 3, padding=1), _of(images, targets)
    index = torch.randperm(300, generator=generator)[:290]
    with torch.inference_mode():
        found = task.predictions(module(images[index]))
    expected = task.count(found.numpy(), targets[index].numpy())
    np.testing.assert_allclose(evaluate(module, examples, index, task), expected, rtol=1e-12)


@pytest.mark.parametrize("protection", [None, _protection()])
def test_a_round_has_as_many_steps_as_it_says_however_many_examples_there_are(protection):
    told = []
    training = _training(**{"local-steps": 7})
    if protection is not None:
        protection = replace(protection, steps=7)
    for count in (3, 10, 50):
        examples = _examples(count)
        settings = _settings(training, protection, progress=lambda *what: told.append(what))
        train(_module(), examples, torch.arange(count), settings)
    assert [done for _, done, _ in told] == [*range(1, 8)] * 3
    assert {steps for _, _, steps in told} == {7}


def test_each_pass_over_the_data_goes_through_all_of_them():
    examples, index = _examples(), torch.arange(10)
    deltas = [
        train(_module(), examples, index, _settings(_training(**keys)))
        for keys in ({"local-epochs": 2}, {"local-steps": 6})  # 10 examples in batches of 4
    ]
    np.testing.assert_array_equal(*deltas)


def _pulled(share: float, *, steps: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    """A model pulled to another one than it began with, and that other one."""
    examples, index, module = _examples(), torch.arange(10), _module()
    centre = torch.full_like(flatten(module), 0.5)
    full = _training(**{"batch-size": 10, "local-epochs": steps, "weight-decay": 0.5})
    pulled = full.model_copy(update={"proximal": share})
    train(module, examples, index, _settings(pulled, centre=centre))
    return flatten(module), centre


def test_without_a_pull_the_centre_does_not_matter():
    local, _ = _pulled(0.0)
    module = _module()
    full = _training(**{"batch-size": 10, "local-epochs": 150, "weight-decay": 0.5})
    train(module, _examples(), torch.arange(10), _settings(full))
    torch.testing.assert_close(local, flatten(module), rtol=0, atol=0)


def test_the_stronger_the_pull_the_nearer_to_the_centre():
    distances = [
        torch.linalg.vector_norm(own - centre).item()
        for own, centre in map(_pulled, (0.0, 0.1, 1.0, 9.0))
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.1 * distances[0]


def test_a_pulled_model_ends_at_the_minimum_of_loss_and_pull():
    """Where the gradient of F(v) + share / 2 ||v - w||^2 is zero (Li et al. 2021, equation 2)."""
    share = 0.5
    own, centre = _pulled(share, steps=300)
    examples, module = _examples(), _module()
    vector = own.clone().requires_grad_()
    shapes = [(2, 3), (2,)]
    parts = vector.split([6, 2])
    named = zip(
        ("weight", "bias"), (p.view(s) for p, s in zip(parts, shapes, strict=True)), strict=True
    )
    outputs = torch.func.functional_call(module, dict(named), examples.parts[0])
    objective = functional.cross_entropy(outputs, examples.targets)
    objective = objective + 0.25 * vector.square().sum()  # the weight decay
    objective = objective + share / 2 * (vector - centre).square().sum()
    (gradient,) = torch.autograd.grad(objective, vector)
    # A step of the pull moves on from where the gradient's step has ended: O(learning rate).
    assert torch.linalg.vector_norm(gradient) < 0.05
