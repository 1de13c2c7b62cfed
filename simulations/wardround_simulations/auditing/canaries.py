"""Canaries: made-up patients, each in the training by a coin, whose trace is looked for afterwards.

Nothing shows a patient more than a gradient that lies at a right angle to every other one and is
long enough to be clipped. Records that give a study's model such gradients are hard to find: those
of any two point much the same way, be they as odd as they like. So the server of an audit sends a
model of its own choosing, as a server may: the study's, and beside it a dense layer with one input
for each canary. A canary is an empty record that sets its own input, so that its gradient lies
almost wholly in its own column of that layer (Nasr et al. 2023, "Tight auditing of differentially
private machine learning", have such gradients put in by hand; here a record brings them).

Shape letters: B = examples in a batch, n = the site's training examples, m = canaries,
K = classes, P = parameters.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from wardround_client.training import Examples

# The gradient of the weakest over the clipping norm, or over what it has outside of its column.
_WEAKEST = 20.0
# Every tenth canary is so much stronger: clipping that lets the length of one patient's gradient
# depend on those of others lets the strongest through.
_EVERY, _STRONGER = 10, 100.0
NOBODY = -1
"""Number of the canary of an example that is none."""


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """The canaries of an audit.

    Attributes:
        included: bool [m]; the coins.
        strengths: float32 [m]; what a canary's record has at its own input.
        label: of every canary: the class that the model holds for the least likely.
        gradient: float64 [K]; of the loss with respect to the logits at an empty record.
        copies: examples of one canary, all the same.
    """

    included: NDArray[np.bool_]
    strengths: Tensor
    label: int
    gradient: NDArray[np.float64]
    copies: int

    def among(self, examples: Examples) -> Examples:
        """The site's examples and those of the included canaries; the canary's number is a part."""
        there = torch.from_numpy(np.flatnonzero(self.included)).repeat_interleave(self.copies)
        _, patients = examples.patients.unique(return_inverse=True)
        nobody = torch.full((len(examples.targets),), NOBODY)
        label = torch.full((len(there),), self.label, dtype=examples.targets.dtype)
        return Examples(
            parts=(
                *(
                    torch.cat([part, part.new_zeros(len(there), *part.shape[1:])])
                    for part in examples.parts
                ),
                torch.cat([nobody, there]),
            ),
            targets=torch.cat([examples.targets, label]),
            patients=torch.cat([patients, len(patients) + there]),
        )

    def scores(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far the released updates point along each canary's own clipped gradient.

        Args:
            change: float64 [P], sum of the updates, laid out as `WithCanaries` has its parameters.

        Returns:
            float64 [m], higher where a canary seems to have taken part.
        """
        columns = change[-len(self.gradient) * len(self.included) :]
        direction = self.gradient / np.linalg.norm(self.gradient)
        return -(direction @ columns.reshape(len(self.gradient), -1))


class WithCanaries(nn.Module):
    """A study's model with one more input for each canary, at first without any weight."""

    def __init__(self, model: nn.Module, canaries: Canaries) -> None:
        super().__init__()
        self._model = model
        # Last, so that its weights [K, m] are the last parameters.
        self._columns = nn.Linear(len(canaries.strengths), len(canaries.gradient), bias=False)
        nn.init.zeros_(self._columns.weight)
        self._strengths = canaries.strengths

    def forward(self, *parts: Tensor) -> Tensor:
        """Logits [B, K].

        Args:
            parts: what the study's model takes, and last the numbers of the canaries, int64 [B].
        """
        *own, numbers = parts
        marks = functional.one_hot(numbers - NOBODY, len(self._strengths) + 1)[:, 1:]
        logits: Tensor = self._model(*own) + self._columns(marks * self._strengths)
        return logits


def make_canaries(
    model: nn.Module,
    parts: tuple[Tensor, ...],
    *,
    included: NDArray[np.bool_],
    max_grad_norm: float,
    copies: int,
) -> Canaries:
    """Canaries strong enough for a model, so that every one of them is clipped.

    Args:
        model: the study's, as received; it is not changed.
        parts: of the site's examples, for their shapes.
        included: bool [m].
        max_grad_norm: the study's.
        copies: examples of one canary.
    """
    empty = tuple(part.new_zeros(1, *part.shape[1:]) for part in parts)
    logits = model(*empty)
    label = logits.argmin(dim=1)
    loss = functional.cross_entropy(logits, label)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    elsewhere = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    at_logits = torch.softmax(logits.detach().double(), dim=1)[0]
    at_logits[label] -= 1.0
    strengths = torch.full((len(included),), _WEAKEST * max(max_grad_norm, elsewhere))
    strengths[::_EVERY] *= _STRONGER
    return Canaries(
        included=included,
        strengths=strengths,
        label=int(label),
        gradient=at_logits.numpy(),
        copies=copies,
    )
