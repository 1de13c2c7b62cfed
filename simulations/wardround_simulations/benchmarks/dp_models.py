"""The models of `wardround bench dp`, as studies build them, each with a batch of noise.

Shape letters: B = examples, C = channels, T = samples in time, K = outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from opacus.layers import DPLSTM
from torch import Tensor, nn

from wardround_shared.models import build_model
from wardround_shared.models.recurrent import RecurrentModel
from wardround_shared.study import Cnn, Lstm, Mlp, Model

BATCH = 64
EXAMPLES_PER_PATIENT = 4


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        name: of the row.
        shape: of one example.
        outputs: K.
        build: the model, initialised from torch's global random state.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    build: Callable[[], nn.Module]

    def model(self) -> nn.Module:
        """The same model each time."""
        torch.manual_seed(0)
        return self.build()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Noise [B, *shape] and labels [B]; the same each time."""
        torch.manual_seed(1)
        return torch.randn(BATCH, *self.shape), torch.randint(0, self.outputs, (BATCH,))


def patients() -> Tensor:
    """Whose each example is, int64 [B]."""
    return torch.arange(BATCH) // EXAMPLES_PER_PATIENT


def with_opacus_layers(module: nn.Module) -> nn.Module:
    """The module with Opacus' own LSTM, without which it cannot serve one."""
    if isinstance(module, RecurrentModel):
        plain = module.get_submodule("lstm")
        assert isinstance(plain, nn.LSTM)
        module.lstm = DPLSTM(plain.input_size, plain.hidden_size, batch_first=True)
    return module


def _of_a_study(name: str, model: Model, shape: tuple[int, ...], outputs: int) -> Subject:
    return Subject(
        name=name,
        shape=shape,
        outputs=outputs,
        build=lambda: build_model(model, (shape,), outputs),
    )


def _cnn1d() -> nn.Module:
    """The cnn of images (models/cnn.py) with one dimension and kernels of seven, for signals."""
    return nn.Sequential(
        *_block(2, 32, pool=True),
        *_block(32, 64, pool=True),
        *_block(64, 64, pool=False),
        nn.AdaptiveAvgPool1d(4),
        nn.Flatten(),
        nn.Linear(64 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 5),
    )


def _block(before: int, after: int, *, pool: bool) -> list[nn.Module]:
    pooling = [nn.MaxPool1d(2)] if pool else []
    convolution = nn.Conv1d(before, after, kernel_size=7, padding=3)
    return [convolution, *pooling, nn.GroupNorm(4, after), nn.ReLU()]


SUBJECTS = (
    _of_a_study("mlp", Mlp(name="mlp"), (13,), 2),
    _of_a_study("cnn", Cnn(name="cnn"), (1, 64, 64), 2),
    Subject(name="cnn1d", shape=(2, 180), outputs=5, build=_cnn1d),
    _of_a_study("lstm", Lstm(name="lstm", hidden=64), (2, 180), 5),
)
