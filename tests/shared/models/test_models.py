"""What must hold for every model."""

import copy

import pytest
import torch

from wardround_shared.errors import StudyError
from wardround_shared.models import build_model, flatten, parameter_count, unflatten_
from wardround_shared.study import Backbone, Bilstm, Cnn, Cnn1d, CnnLstm, DcGan, Gru, Lstm, Mlp

MLP = Mlp(name="mlp", hidden=(7, 5))
CNN = Cnn(name="cnn", width=8, dense=10)
LSTM = Lstm(name="lstm", hidden=6, dense=9)
FRONT = Lstm.model_validate(
    {"name": "lstm", "hidden": 6, "front": 8, "layers": 2, "bidirectional": True}
)
RESNET = Backbone(name="resnet18")
BILSTM = Bilstm(name="bilstm", buckets=50, embedding=4, hidden=5)
CNN1D = Cnn1d(name="cnn1d", width=4, blocks=3, dense=9)
GRU = Gru(name="gru", hidden=6, front=8, bidirectional=True, dense=9)
RECORDS = Gru(name="gru", hidden=6, dense=9)
CNN_LSTM = CnnLstm(name="cnn-lstm", width=4, blocks=2, hidden=6, dense=9)
CASES = [
    pytest.param(MLP, ((11,),), id="mlp"),
    pytest.param(MLP, ((11,), (2,)), id="mlp-static"),
    pytest.param(CNN, ((1, 28, 28),), id="cnn"),
    pytest.param(CNN, ((3, 17, 40), (2,)), id="cnn-static"),
    pytest.param(LSTM, ((2, 30),), id="lstm"),
    pytest.param(FRONT, ((2, 31), (4,)), id="lstm-front-static"),
    pytest.param(GRU, ((2, 31), (4,)), id="gru-static"),
    # Values, masks and gaps of nine features, eight time points, age and sex.
    pytest.param(RECORDS, ((27, 8), (3,)), id="gru-records"),
    pytest.param(LSTM, ((27, 8), (3,)), id="lstm-records"),
    pytest.param(CNN1D, ((12, 50),), id="cnn1d"),
    pytest.param(CNN1D, ((1, 3), (2,)), id="cnn1d-static"),
    pytest.param(CNN_LSTM, ((3, 41), (2,)), id="cnn-lstm-static"),
    pytest.param(BILSTM, ((2, 12),), id="bilstm"),
    pytest.param(BILSTM, ((1, 30), (2,)), id="bilstm-static"),
    pytest.param(RESNET, ((1, 32, 40), (2,)), id="resnet18-static"),
    pytest.param(Backbone(name="resnet50"), ((3, 32, 32),), id="resnet50"),
    pytest.param(Backbone(name="densenet121"), ((1, 32, 32),), id="densenet121"),
    pytest.param(DcGan(name="dcgan", width=4), ((3, 17, 30),), id="dcgan"),
]


def examples(model, shapes, count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(count, *shape, generator=generator) for shape in shapes]
    if isinstance(model, Bilstm):
        inputs[0] = hashes(count, shapes[0], generator)
    return inputs


def hashes(count, shape, generator) -> torch.Tensor:
    """Texts of different lengths, as `hash-words` leaves them."""
    tokens = torch.randint(1, 2**31, (count, *shape), generator=generator, dtype=torch.int32)
    ends = torch.tensor([shape[1], 1, shape[1] // 2, 3, 2])[:count]
    for row in range(shape[0]):
        tokens[:, row].masked_fill_(torch.arange(shape[1]) >= (ends - row)[:, None], 0)
    return tokens


def built(model, shapes) -> torch.nn.Module:
    torch.manual_seed(3)
    return build_model(model, shapes, 3)


@pytest.mark.parametrize(("model", "shapes"), CASES)
@pytest.mark.parametrize("count", [1, 5])
def test_a_batch_gives_one_row_of_logits_an_example(model, shapes, count):
    assert built(model, shapes)(*examples(model, shapes, count)).shape == (count, 3)


@pytest.mark.parametrize(("model", "shapes"), CASES)
def test_examples_do_not_see_one_another(model, shapes):
    module, inputs = built(model, shapes), examples(model, shapes)
    order = torch.tensor([3, 0, 4, 1, 2])
    logits = module(*inputs)
    close = {"rtol": 1e-4, "atol": 1e-4}  # 121 layers round differently for one example alone
    torch.testing.assert_close(module(*(x[order] for x in inputs)), logits[order], **close)
    torch.testing.assert_close(module(*(x[:1] for x in inputs)), logits[:1], **close)


@pytest.mark.parametrize(("model", "shapes"), CASES)
def test_the_gradient_reaches_every_parameter(model, shapes):
    module = built(model, shapes)
    module(*examples(model, shapes)).square().sum().backward()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue  # no site trains a generator
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# Words are no numbers to differentiate by; test_text.py changes them instead.
OF_NUMBERS = [case for case in CASES if not isinstance(case.values[0], Bilstm)]


@pytest.mark.parametrize(("model", "shapes"), OF_NUMBERS)
def test_every_part_of_the_input_reaches_the_output(model, shapes):
    inputs = [x.requires_grad_() for x in examples(model, shapes)]
    built(model, shapes)(*inputs).square().sum().backward()
    assert all(x.grad.abs().sum() > 0 for x in inputs)


@pytest.mark.parametrize(("model", "shapes"), CASES)
def test_parameters_survive_the_way_through_a_vector(model, shapes):
    module = built(model, shapes)
    vector = flatten(module)
    assert vector.dtype == torch.float32
    assert vector.shape == (parameter_count(module),)
    other = build_model(model, shapes, 3)
    assert not torch.equal(flatten(other), vector)
    unflatten_(other, vector)
    assert torch.equal(flatten(other), vector)
    inputs = examples(model, shapes)
    assert torch.equal(other(*inputs), module(*inputs))


def test_the_vector_is_a_copy_in_the_order_of_the_parameters():
    module = built(CNN, ((1, 28, 28),))
    vector = flatten(module)
    expected = [number for p in module.parameters() for number in p.detach().flatten().tolist()]
    assert vector.tolist() == expected
    vector.zero_()
    assert flatten(module).abs().sum() > 0


def test_a_vector_of_another_length_is_refused_and_nothing_changes():
    module = built(MLP, ((11,),))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        unflatten_(module, flatten(module)[1:])
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("model", "shapes"), CASES)
def test_initialisation_follows_torchs_random_state(model, shapes):
    assert torch.equal(flatten(built(model, shapes)), flatten(built(model, shapes)))


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (MLP, ((11,), (2,))),
        (CNN, ((1, 8, 8), (2,))),
        (LSTM, ((2, 30), (2,))),
        (GRU, ((2, 30), (2,))),
        (CNN1D, ((2, 30), (2,))),
        (CNN_LSTM, ((2, 30), (2,))),
        (BILSTM, ((1, 32), (2,))),
        (RESNET, ((1, 32, 32), (2,))),
    ],
)
def test_static_features_that_are_not_there_or_not_expected_are_an_error(model, shapes):
    inputs = examples(model, shapes)
    with pytest.raises(ValueError, match="static"):
        built(model, shapes)(inputs[0])
    with pytest.raises(ValueError, match="static"):
        built(model, shapes[:1])(*inputs)


@pytest.mark.parametrize(
    ("model", "shapes", "fault"),
    [
        (MLP, ((1, 28, 28),), "histogram"),
        (MLP, ((2, 30),), "mlp takes rows"),
        (CNN, ((11,),), "cnn takes images"),
        (CNN, ((1, 28, 7),), "at least 8 x 8"),
        (LSTM, ((1, 28, 28),), "lstm takes signals"),
        (LSTM, ((11,),), "lstm takes signals"),
        (GRU, ((1, 28, 28),), "gru takes signals"),
        (CNN1D, ((1, 28, 28),), "cnn1d takes signals"),
        (CNN_LSTM, ((11,),), "cnn-lstm takes signals"),
        (BILSTM, ((11,),), "bilstm takes texts"),
        (RESNET, ((2, 30),), "resnet18 takes images"),
        (RESNET, ((1, 64, 31),), "at least 32 x 32"),
        (MLP, ((11,), (2,), (2,)), "no model takes"),
        (MLP, ((11,), (2, 2)), "no model takes"),
    ],
)
def test_a_model_that_does_not_fit_the_examples_is_refused(model, shapes, fault):
    with pytest.raises(StudyError, match=fault):
        build_model(model, shapes, 2)


@pytest.mark.parametrize(("model", "shapes"), CASES)
def test_opacus_accepts_every_layer_but_recurrent_ones_which_are_replaced(model, shapes):
    from opacus.validators import ModuleValidator

    faults = [str(e) for e in ModuleValidator.validate(built(model, shapes), strict=False)]
    assert [fault for fault in faults if "LSTM" not in fault and "GRU" not in fault] == []
    assert bool(faults) == isinstance(model, Lstm | Gru | CnnLstm | Bilstm)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (MLP, ((11,),)),
        (CNN, ((1, 8, 8),)),
        (LSTM, ((2, 30),)),
        (GRU, ((2, 30),)),
        (CNN1D, ((2, 30),)),
        (CNN_LSTM, ((2, 30),)),
        (BILSTM, ((1, 32),)),
        (RESNET, ((1, 32, 32),)),
    ],
)
def test_dropout_acts_in_training_only(model, shapes):
    module = built(model.model_copy(update={"dropout": 0.5}), shapes)
    inputs = examples(model, shapes)
    assert not torch.equal(module(*inputs), module(*inputs))
    module.eval()
    assert torch.equal(module(*inputs), module(*inputs))
