"""A recurrent network for texts.

B = examples in the batch, N = lengths of word runs, L = positions, S = static features,
V = buckets, E = numbers of a word's vector, H = hidden size of a direction, K = outputs.
"""

import math

import torch
from torch import Tensor, nn

from wardround_shared.errors import StudyError
from wardround_shared.models.static import static_size, with_static
from wardround_shared.study import Bilstm

# Standard deviation of the words' first vectors: with that of nn.Embedding, 1, the words that were
# never seen are as loud as those that were learned.
_FIRST = 0.1


class BilstmModel(nn.Module):
    """Words' vectors, an LSTM over them from either end, and one dense layer.

    Inputs: main [B, N, L], hashes of words from 1 on and 0 where there is no word, as the step
    `hash-words` leaves them; static [B, S] if there is one, joined at the dense layer; output
    [B, K]. A hash modulo V is a word's bucket. At each position the vectors of its N runs are
    added up. The dense layer sees the sum of these over the root of the number of words, their
    maximum, and the maximum of each hidden unit (Graves & Schmidhuber 2005; the maximum as in
    Conneau et al. 2017). Positions without a word take no part: neither the length that texts are
    filled up to nor the other examples of a batch change anything. The parameters number

        V E + 2 (4 H (E + H) + 8 H) + (2 E + 2 H + S) K + K.
    """

    def __init__(self, model: Bilstm, *, static: int, outputs: int) -> None:
        super().__init__()
        self._static, self._word_dropout = static, model.word_dropout
        self.embedding = nn.Embedding(model.buckets, model.embedding)
        nn.init.normal_(self.embedding.weight, std=_FIRST)
        # Two layers, not one in both directions, which would read the filling first from the end.
        self.directions = nn.ModuleList(
            nn.LSTM(model.embedding, model.hidden, batch_first=True) for _ in range(2)
        )
        features = 2 * model.embedding + 2 * model.hidden
        self.dropout = nn.Dropout(model.dropout) if model.dropout else nn.Identity()
        self.output = nn.Linear(features + static, outputs)

    def forward(self, main: Tensor, static: Tensor | None = None) -> Tensor:
        """Logits [B, K]."""
        there = main[:, 0] > 0  # [B, L]
        longest = max(1, int(there.sum(dim=1).max())) if len(there) else 1
        main, there = main[:, :, :longest], there[:, :longest]
        vectors = self._vectors(main)  # [B, L, E]
        count = there.sum(dim=1, keepdim=True)
        features = [vectors.sum(dim=1) / count.clamp_min(1).sqrt(), _highest(vectors, there)]
        for layer, order in zip(self.directions, _orders(count, longest), strict=True):
            states, _ = layer(vectors.gather(1, order.unsqueeze(2).expand_as(vectors)))
            features.append(_highest(states, there))
        joined = with_static(torch.cat(features, dim=1), static, self._static)
        logits: Tensor = self.output(self.dropout(joined))
        return logits

    def _vectors(self, main: Tensor) -> Tensor:
        """Sums of the vectors of each position's runs, [B, L, E]."""
        there = main > 0
        if self.training and self._word_dropout:
            there = there & (torch.rand(main.shape, device=main.device) >= self._word_dropout)
        vectors: Tensor = self.embedding(main % self.embedding.num_embeddings)
        return (vectors * there.unsqueeze(3)).sum(dim=1)


def _orders(count: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Positions [B, L] in either order of words; the filling stays at the end."""
    forwards = torch.arange(longest, device=count.device).expand(len(count), -1)
    return forwards, torch.where(forwards < count, count - 1 - forwards, forwards)


def _highest(values: Tensor, there: Tensor) -> Tensor:
    """The maximum [B, F] of values [B, L, F] over positions with a word; 0 without any."""
    filled = values.masked_fill(~there.unsqueeze(2), -math.inf).amax(dim=1)
    return torch.where(there.any(dim=1, keepdim=True), filled, 0.0)


def build_bilstm(model: Bilstm, shapes: tuple[tuple[int, ...], ...], outputs: int) -> BilstmModel:
    """Check the shapes and build the model.

    Raises:
        StudyError: the examples are no texts.
    """
    if len(shapes[0]) != 2:
        raise StudyError(
            f"model.name: bilstm takes texts, and the examples have shape {shapes[0]}; take mlp "
            "for tables and cnn for images."
        )
    return BilstmModel(model, static=static_size(shapes), outputs=outputs)
