"""The network for texts."""

import pytest
import torch

from wardround_shared.models import build_model, parameter_count
from wardround_shared.study import Bilstm


def built(shapes=((2, 12),), outputs=3, **changes):
    settings = {"name": "bilstm", "buckets": 50, "embedding": 4, "hidden": 5} | changes
    torch.manual_seed(3)
    return build_model(Bilstm.model_validate(settings), shapes, outputs)


def test_the_parameters_number_what_the_docstring_says():
    v, e, h, s, k = 50, 4, 5, 2, 3
    expected = v * e + 2 * (4 * h * (e + h) + 8 * h) + (2 * e + 2 * h + s) * k + k
    assert parameter_count(built(((2, 12), (s,)))) == expected


def test_every_word_and_run_reaches_the_output():
    module, text = built(), torch.arange(1, 25, dtype=torch.int32).view(1, 2, 12)
    logits = module(text)
    for row in range(2):
        for place in range(12):
            changed = text.clone()
            changed[0, row, place] += 25
            assert not torch.equal(module(changed), logits)


def test_the_order_of_words_counts_in_either_direction():
    module = built(((1, 4),))
    one, other = torch.tensor([[[5, 6, 7, 8]]]), torch.tensor([[[8, 7, 6, 5]]])
    assert not torch.allclose(module(one), module(other), atol=1e-4)
    swapped = built(((1, 4),))  # with the layers changed about, the text reads the other way
    swapped.directions[0], swapped.directions[1] = module.directions[1], module.directions[0]
    swapped.output.weight.data = swapped.output.weight[
        :, [*range(8), *range(13, 18), *range(8, 13)]
    ]
    torch.testing.assert_close(swapped(other), module(one))


@pytest.mark.parametrize("filling", [0, 1, 40])
def test_the_filling_changes_nothing(filling):
    module = built()
    text = torch.tensor([[[9, 8, 7], [3, 2, 0]]], dtype=torch.int32)
    longer = torch.nn.functional.pad(text, (0, filling))
    other = torch.ones(1, 2, 3 + filling, dtype=torch.int32)  # a neighbour without filling
    torch.testing.assert_close(module(torch.cat([longer, other]))[:1], module(text))


def test_words_of_one_bucket_are_one_word_and_a_bucket_is_no_filling():
    module = built(((1, 3),))
    torch.testing.assert_close(
        module(torch.tensor([[[50, 1, 51]]])), module(torch.tensor([[[100, 51, 1]]]))
    )
    assert not torch.allclose(
        module(torch.tensor([[[1, 50, 0]]])), module(torch.tensor([[[1, 0, 0]]]))
    )


def test_a_hash_is_an_exact_number():
    module = built(((1, 1),), buckets=2**20)
    one, next_one = 2**31 - 1, 2**31 - 2  # the same number as float32
    assert not torch.equal(module(torch.tensor([[[one]]])), module(torch.tensor([[[next_one]]])))


@pytest.mark.parametrize("count", [0, 2])
def test_a_record_without_a_word_gives_finite_logits_and_gradients(count):
    module = built()
    logits = module(torch.zeros(count, 2, 12, dtype=torch.int32))
    assert logits.shape == (count, 3)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_word_dropout_leaves_words_out_in_training_only():
    module = built(((1, 12),), **{"word-dropout": 0.5})
    text = torch.arange(1, 13).view(1, 1, 12)
    assert not torch.equal(module(text), module(text))
    module.eval()
    assert torch.equal(module(text), module(text))


def test_it_learns_which_of_two_words_comes_first():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    texts = torch.randint(10, 40, (64, 1, 12))
    for label, text in zip(labels.tolist(), texts, strict=True):
        first, second = (torch.randperm(12)[:2].sort().values).tolist()
        text[0, first], text[0, second] = (1, 2) if label else (2, 1)
    module = built(((1, 12),), 2, hidden=16, embedding=8)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(texts), labels).backward()
        optimiser.step()
    assert (module(texts).argmax(1) == labels).float().mean() > 0.95
