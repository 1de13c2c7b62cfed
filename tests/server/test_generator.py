"""The generator is trained at the server, after each step, against the discriminator alone."""

import numpy as np
import pytest
import torch

from wardround_server.generator import WithGenerator
from wardround_server.optimisers import FedAdam, FedAvg
from wardround_shared.errors import RunFolderError
from wardround_shared.models import build_model, flatten
from wardround_shared.steps import Steps
from wardround_shared.study import DcGan, Training

MODEL = {"name": "dcgan", "width": 4, "generator-width": 4, "latent": 5}


def network():
    torch.manual_seed(3)
    return build_model(DcGan.model_validate(MODEL), ((1, 12, 12),), 2)


BOTH = network()
START = flatten(BOTH).numpy()
OWN = sum(p.numel() for p in BOTH.discriminator.parameters())


def training(**changed):
    generator = {"steps": 4, "batch-size": 8, "learning-rate": 0.01} | changed
    return Training.model_validate(
        {"rounds": 6, "learning-rate": 0.1, "generator": generator, **SCHEDULE}
    )


SCHEDULE = {"learning-rate-schedule": "cosine"}


def optimiser(inner=None, seed=0, **changed):
    return WithGenerator(inner or FedAvg(1.0), training(**changed), network, seed)


def delta(value=0.25):
    """As sites send it: they never move the generator."""
    counts = np.zeros(len(START), np.int64)
    counts[:OWN] = round(value * 2.0**20)
    return Steps(counts=counts, divisors=(2.0**20,))


def scored(parameters):
    """Mean loss of the generator, on images that it was not trained on."""
    both = network()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), both.parameters())
    with torch.no_grad():
        classes = torch.arange(64) % 2
        made = both.made(classes, torch.Generator().manual_seed(99))
        logits = both(made).gather(1, classes[:, None])
    return float(torch.nn.functional.softplus(-logits).mean())


def test_the_discriminator_moves_by_what_sites_have_sent_and_by_nothing_else():
    moved = optimiser().step(START, delta())
    assert np.array_equal(moved[:OWN], FedAvg(1.0).step(START, delta())[:OWN])
    assert not np.array_equal(moved[OWN:], START[OWN:])


def test_the_generator_learns_to_be_taken_for_real():
    trained = START
    steps = optimiser(steps=40)
    for _ in range(3):
        trained = steps.step(trained, delta(0.0))
    assert scored(trained) < 0.8 * scored(START)


def test_the_seed_alone_says_what_is_drawn():
    assert np.array_equal(optimiser().step(START, delta()), optimiser().step(START, delta()))
    assert not np.array_equal(
        optimiser().step(START, delta()), optimiser(seed=1).step(START, delta())
    )


@pytest.mark.parametrize("inner", [lambda: FedAvg(1.0), lambda: FedAdam(0.01)])
@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_run_that_goes_on_from_its_checkpoint_ends_with_the_same_model(inner, done):
    whole = optimiser(inner())
    wanted = START
    for _ in range(4):
        wanted = whole.step(wanted, delta())
    first = optimiser(inner())
    found = START
    for _ in range(done):
        found = first.step(found, delta())
    kept = {key: value.copy() for key, value in first.state().items()}
    second = optimiser(inner())
    second.restore(kept)
    for _ in range(4 - done):
        found = second.step(found, delta())
    assert np.array_equal(found, wanted)


def test_a_checkpoint_of_something_else_is_refused():
    with pytest.raises(RunFolderError, match="another optimiser"):
        optimiser().restore({"generator.mean": np.zeros(3)})
    adam = FedAdam(0.1)
    adam.step(START, delta())
    with pytest.raises(RunFolderError, match="another optimiser"):
        optimiser().restore(adam.state())


def test_the_rate_falls_with_the_schedule():
    steps = optimiser()
    sizes = []
    parameters = START
    for _ in range(6):
        moved = steps.step(parameters, delta(0.0))
        sizes.append(np.abs(moved[OWN:] - parameters[OWN:]).mean())
        parameters = moved
    assert sizes[-1] < 0.3 * sizes[0]
