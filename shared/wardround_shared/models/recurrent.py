"""Recurrent networks for signals.

B = examples in the batch, C = channels (leads), T = samples in time, S = static features,
f = channels of the front end, H = hidden size, R = 2 if bidirectional, else 1, G = 4 for an LSTM
and 3 for a GRU, D = dense features, K = outputs.
"""

import math

from torch import Tensor, nn

from wardround_shared.errors import StudyError
from wardround_shared.models.cnn1d import strided_blocks
from wardround_shared.models.shapes import require_signal
from wardround_shared.models.static import static_size, with_static
from wardround_shared.study import CnnLstm, Gru, Lstm

Recurrent = Lstm | Gru | CnnLstm


class RecurrentModel(nn.Module):
    """LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014) over time, and a dense layer.

    Inputs: main [B, C, T], static [B, S] if there is one, joined at the dense layer; output
    [B, K]. Any T will do. `lstm` and `gru` may have one strided convolution before them, and
    `cnn-lstm` has the blocks of `cnn1d`. The parameters number, with I the front end's channels,
    or C,

        front     C f k + 3 f                 (k = front_kernel; only if f > 0)
        layers    R (G H (I + H) + 2 G H)     the first
                  R (G H (R H + H) + 2 G H)   each further one
        dense     (R H + S) D + D
        output    D K + K.

    The dense layer sees the maximum of each hidden unit over time and not its last value or mean:
    an event counts wherever it is, and its gradient does not have to come back through all later
    steps. On MIT-BIH beats, cross-validated over patients with several seeds, the maximum gave a
    slightly higher macro F1 than either. With `per_step` it sees the hidden units of each step
    instead, and answers for each: [B, T, K].
    """

    def __init__(
        self,
        model: Recurrent,
        *,
        channels: int,
        static: int,
        outputs: int,
        per_step: bool = False,
    ) -> None:
        super().__init__()
        self._static, self._per_step = static, per_step
        self.front, inputs = _front(model, channels)
        kind = nn.GRU if isinstance(model, Gru) else nn.LSTM
        recurrent = kind(
            inputs,
            model.hidden,
            num_layers=model.layers,
            batch_first=True,
            bidirectional=model.bidirectional,
        )
        # By this name it stands in stored models.
        self._kind = "gru" if isinstance(model, Gru) else "lstm"
        self.add_module(self._kind, recurrent)
        directions = 2 if model.bidirectional else 1
        self.dense = nn.Linear(directions * model.hidden + static, model.dense)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(model.dropout) if model.dropout else nn.Identity()
        self.output = nn.Linear(model.dense, outputs)

    def forward(self, main: Tensor, static: Tensor | None = None) -> Tensor:
        """Logits [B, K], or [B, T, K] for each step."""
        states, _ = self.get_submodule(self._kind)(self.front(main).transpose(1, 2))  # [B, T', R H]
        if self._per_step:
            features = states
        else:
            features = with_static(states.amax(dim=1), static, self._static)
        logits: Tensor = self.output(self.dropout(self.activation(self.dense(features))))
        return logits


def _front(model: Recurrent, channels: int) -> tuple[nn.Module, int]:
    """What is before the recurrent layer, and the channels that come out of it."""
    if isinstance(model, CnnLstm):
        return strided_blocks(channels, width=model.width, blocks=model.blocks, kernel=model.kernel)
    if not model.front:
        return nn.Identity(), channels
    convolution = nn.Conv1d(
        channels,
        model.front,
        kernel_size=model.front_kernel,
        stride=model.front_stride,
        padding=model.front_kernel // 2,
    )
    # Four groups where the channels allow it.
    norm = nn.GroupNorm(math.gcd(4, model.front), model.front)
    return nn.Sequential(convolution, norm, nn.ReLU()), model.front


def build_recurrent(
    model: Recurrent,
    shapes: tuple[tuple[int, ...], ...],
    outputs: int,
    *,
    per_step: bool = False,
) -> RecurrentModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no signals.
    """
    require_signal(model.name, shapes[0])
    static = static_size(shapes)
    if per_step and static:
        raise StudyError("data.static: a model that answers for each step takes no static columns.")
    return RecurrentModel(
        model, channels=shapes[0][0], static=static, outputs=outputs, per_step=per_step
    )
