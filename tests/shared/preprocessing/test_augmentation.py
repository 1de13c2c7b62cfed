"""Random change of training batches."""

import pickle

import numpy as np
import pytest
import torch

from wardround_shared.preprocessing.augmentation import Augmentation
from wardround_shared.study import Augment

ALL = {"name": "augment", "flip": True, "shift": 0.1, "rotate": 10.0, "scale": 0.1, "noise": 0.1}
SIGNAL = {"name": "augment", "shift": 0.1, "scale": 0.2, "noise": 0.1}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(99))


def parts_of(augment, parts, generator):
    """The parts after augmentation; targets that are no masks stay."""
    targets = torch.arange(len(parts[0]))
    parts, after = augment(parts, targets, generator)
    assert after is targets
    return parts


@pytest.mark.parametrize(
    ("source", "step", "shape"),
    [("image", ALL, (6, 3, 12, 9)), ("signal", SIGNAL, (6, 2, 50))],
)
def test_the_same_generator_state_gives_the_same_batch(make_recipe, source, step, shape):
    augment = make_recipe(source, step).augmentation()
    (first,), (again,), (other,) = (
        parts_of(augment, (batch(*shape),), generator(s)) for s in (1, 1, 2)
    )
    assert first.shape == shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, batch(*shape))


def test_without_an_augment_step_there_is_none(make_recipe):
    assert make_recipe("image").augmentation() is None


def test_static_features_stay(make_recipe):
    augment = make_recipe("beats", {"name": "one-hot"}, SIGNAL).augmentation()
    static = batch(6, 4)
    assert parts_of(augment, (batch(6, 1, 50), static), generator())[1] is static


@pytest.mark.parametrize(
    ("source", "step", "shape"),
    [("image", ALL, (0, 1, 8, 8)), ("signal", SIGNAL, (0, 1, 50))],
)
def test_an_empty_batch_stays_empty(make_recipe, source, step, shape):
    (out,) = parts_of(make_recipe(source, step).augmentation(), (torch.zeros(shape),), generator())
    assert out.shape == shape


def test_a_flip_mirrors_about_half_of_the_images_and_changes_nothing_else(make_recipe):
    augment = make_recipe("image", {"name": "augment", "flip": True}).augmentation()
    images = batch(400, 1, 4, 5)
    (out,) = parts_of(augment, (images,), generator())
    same = (out == images).flatten(1).all(1)
    mirrored = (out == images.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 140 < int(mirrored.sum()) < 260


def test_a_flip_is_the_same_with_and_without_resampling(make_recipe):
    plain = make_recipe("image", {"name": "augment", "flip": True}).augmentation()
    resampled = make_recipe(
        "image", {"name": "augment", "flip": True, "rotate": 1e-6}
    ).augmentation()
    images = batch(20, 1, 6, 10)
    np.testing.assert_allclose(
        parts_of(plain, (images,), generator())[0],
        parts_of(resampled, (images,), generator())[0],
        atol=1e-4,
    )


def test_a_shift_moves_by_no_more_than_asked_and_repeats_the_border(make_recipe):
    augment = make_recipe("image", {"name": "augment", "shift": 0.25}).augmentation()
    ramp = torch.arange(16.0).expand(50, 1, 16, 16)
    (out,) = parts_of(augment, (ramp,), generator())
    moved = (out - ramp)[:, 0, :, 8]
    assert moved.abs().max() <= 4.0 + 1e-4
    assert moved.abs().max() > 3.0
    assert out.min() >= 0.0
    assert out.max() <= 15.0 + 1e-4


def test_a_rotation_is_rigid_in_an_image_that_is_not_square(make_recipe):
    augment = make_recipe("image", {"name": "augment", "rotate": 90.0}).augmentation()
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(81.0), indexing="ij")
    disc = ((rows - 20) ** 2 + (columns - 40) ** 2 < 15**2).float()
    (out,) = parts_of(augment, (disc.expand(8, 1, 41, 81),), generator())
    assert (out - disc).abs().mean() < 0.02


def test_rotations_do_turn(make_recipe):
    augment = make_recipe("image", {"name": "augment", "rotate": 90.0}).augmentation()
    bar = torch.zeros(8, 1, 21, 21)
    bar[:, :, 10, :] = 1.0
    (out,) = parts_of(augment, (bar,), generator())
    assert (out - bar).abs().amax((1, 2, 3)).min() > 0.3


def test_scaling_an_image_changes_the_size_of_what_is_in_it(make_recipe):
    augment = make_recipe("image", {"name": "augment", "scale": 0.3}).augmentation()
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = ((rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 12**2).float()
    (out,) = parts_of(augment, (disc.expand(200, 1, 64, 64),), generator())
    areas = out.sum((1, 2, 3)) / disc.sum()
    assert 0.7**2 - 0.02 <= float(areas.min()) < 0.6
    assert 1.5 < float(areas.max()) <= 1.3**2 + 0.02


def test_a_signal_shift_is_by_whole_samples_with_its_ends_repeated(make_recipe):
    augment = make_recipe("signal", {"name": "augment", "shift": 0.2}).augmentation()
    ramp = torch.arange(50.0).expand(100, 2, 50)
    (out,) = parts_of(augment, (ramp,), generator())
    assert torch.equal(out, out.round())
    assert (out - ramp).abs().max() == 10.0
    assert torch.equal(out[:, 0], out[:, 1])


def test_a_signal_is_scaled_in_amplitude_and_all_its_leads_alike(make_recipe):
    augment = make_recipe("signal", {"name": "augment", "scale": 0.2}).augmentation()
    signals = batch(100, 2, 30)
    factor = parts_of(augment, (signals,), generator())[0] / signals
    np.testing.assert_allclose(factor.std((1, 2)), 0.0, atol=1e-5)
    assert factor.min() >= 0.8 - 1e-5
    assert factor.max() <= 1.2 + 1e-5
    assert factor.max() - factor.min() > 0.3


def test_no_example_sees_another(make_recipe):
    augment = make_recipe("image", ALL).augmentation()
    images = batch(4, 1, 8, 8)
    changed = images.clone()
    changed[2] += 1.0
    (before,), (after,) = (parts_of(augment, (x,), generator()) for x in (images, changed))
    differs = (before != after).flatten(1).any(1)
    assert differs.tolist() == [False, False, True, False]


def test_it_can_be_sent_to_a_worker(make_recipe):
    augment = make_recipe("image", ALL).augmentation()
    copy = pickle.loads(pickle.dumps(augment))
    images = batch(4, 1, 8, 8)
    assert torch.equal(
        parts_of(augment, (images,), generator())[0], parts_of(copy, (images,), generator())[0]
    )


@pytest.mark.parametrize("step", [{"name": "augment", "flip": True}, ALL])
def test_a_mask_moves_with_its_image(step):
    augment = Augmentation(Augment.model_validate(step | {"noise": 0.0}), images=True, masks=True)
    masks = torch.zeros(40, 24, 32, dtype=torch.uint8)
    masks[:, 4:14, 3:17] = 1
    masks[:, 6:9, 5:9] = 2
    (images,), after = augment((masks.unsqueeze(1).float(),), masks, generator())
    assert after.dtype == torch.uint8
    assert set(after.unique().tolist()) == {0, 1, 2}
    # Equal but at the edges, where the image is interpolated and a mask is not.
    assert (images[:, 0].round() != after).float().mean() < 0.03
    assert (after != masks).flatten(1).any(1).float().mean() > 0.3


def test_masks_of_an_empty_batch_stay_empty():
    augment = Augmentation(Augment.model_validate(ALL), images=True, masks=True)
    _, after = augment((torch.zeros(0, 1, 8, 8),), torch.zeros(0, 8, 8), generator())
    assert after.shape == (0, 8, 8)
