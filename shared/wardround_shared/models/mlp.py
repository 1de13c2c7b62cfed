"""Fully connected layers for tables.

B = examples in the batch, F = columns, S = static columns, K = outputs.
"""

from torch import Tensor, nn

from wardround_shared.errors import StudyError
from wardround_shared.models.static import static_size, with_static
from wardround_shared.study import Mlp


class MlpModel(nn.Module):
    """Linear layers with ReLU between them, dropout after each ReLU.

    Inputs: main [B, F], static [B, S] if there is one, joined at the input; output [B, K].
    With D0 = F + S and hidden widths D1..Dm the parameters number

        D0 D1 + D1 + ... + Dm K + K,

    and without hidden layers, which is logistic regression, D0 K + K.
    """

    def __init__(self, model: Mlp, *, columns: int, static: int, outputs: int) -> None:
        super().__init__()
        self._static = static
        layers: list[nn.Module] = []
        width = columns + static
        for hidden in model.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            if model.dropout:
                layers.append(nn.Dropout(model.dropout))
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, main: Tensor, static: Tensor | None = None) -> Tensor:
        """Logits [B, K]."""
        logits: Tensor = self.layers(with_static(main, static, self._static))
        return logits


def build_mlp(model: Mlp, shapes: tuple[tuple[int, ...], ...], outputs: int) -> MlpModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are not rows of a table.
    """
    if len(shapes[0]) != 1:
        raise StudyError(
            f"model.name: mlp takes rows of a table, and the examples have shape {shapes[0]}; take "
            "cnn for images and lstm for signals, or add a histogram step to images."
        )
    return MlpModel(model, columns=shapes[0][0], static=static_size(shapes), outputs=outputs)
