"""What changes examples under privacy follows the secret source, all of it and nothing else."""

import pytest
import torch
from torch import nn

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy import InjectedNoise, SystemNoise, chances
from wardround_shared.privacy.chances import make_secret_


def draws(noise, generator=None):
    generator = generator or torch.Generator()
    make_secret_(generator, noise)
    return torch.rand(2000, generator=generator)


def test_equal_sources_give_equal_draws_whatever_the_generator_did_before():
    used = torch.Generator().manual_seed(99)
    torch.randn(7, generator=used)
    assert torch.equal(draws(InjectedNoise(1)), draws(InjectedNoise(1), used))
    assert not torch.equal(draws(InjectedNoise(1)), draws(InjectedNoise(2)))


def test_two_states_from_the_system_differ():
    noise = SystemNoise()
    assert not torch.equal(draws(noise), draws(noise))


def test_the_state_does_not_hang_on_a_seed_that_could_be_tried():
    """Two sources whose first draws are equal still give other numbers."""

    class Almost:
        def __init__(self, last):
            self.last = last

        def uniform(self, n):
            numbers = InjectedNoise(5).uniform(n)
            numbers[-1] = self.last
            return numbers

    assert not torch.equal(draws(Almost(0.1)), draws(Almost(0.9)))


def test_the_draws_are_uniform():
    numbers = draws(SystemNoise()).double()
    assert abs(float(numbers.mean()) - 0.5) < 0.04
    assert abs(float(numbers.var()) - 1 / 12) < 0.01
    normals = torch.Generator()
    make_secret_(normals, SystemNoise())
    assert abs(float(torch.randn(10_000, generator=normals).std()) - 1.0) < 0.06


def test_dropout_draws_from_the_default_generator():
    def masks(noise):
        make_secret_(torch.default_generator, noise)
        return nn.functional.dropout(torch.ones(200), 0.5)

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(masks(InjectedNoise(3)), masks(InjectedNoise(3)))
        assert not torch.equal(masks(InjectedNoise(3)), masks(InjectedNoise(4)))


def test_a_state_of_another_form_is_refused(monkeypatch):
    monkeypatch.setattr(chances, "_STATE_BYTES", 5064)
    with pytest.raises(PrivacyError, match="another form"):
        make_secret_(torch.Generator(), SystemNoise())
