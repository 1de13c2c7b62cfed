"""Embeddings with gradients of units that are never formed.

A unit's gradient has a row for each of the V entries, and all but those that the unit looked up are
zero. Its norm is that of the few rows that are not: the gradients at the outputs, added up over
the positions at which a unit looks up one entry (Lee & Kifer 2021, "Scaling up differentially
private deep learning with fast per-example gradient clipping", 4, has it for entries looked up
once). The weighted sum over units is one more addition of rows. In full, V E numbers for each
patient, they would be the largest thing in a step.

Shape letters: B = examples, U = units, V = entries, E = numbers of an entry, L... = positions.
"""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from wardround_shared.privacy.batch import Batch
from wardround_shared.privacy.gradients import BookKept, record
from wardround_shared.privacy.units import Units


def can_embed(layer: nn.Embedding) -> bool:
    """Whether `embedding` knows the layer's settings; it has no one entry that is left alone."""
    settings = (layer.padding_idx, layer.max_norm)
    return settings == (None, None) and not (layer.scale_grad_by_freq or layer.sparse)


def embedding(layer: nn.Embedding, batch: Batch, x: Tensor) -> Any:
    """What `layer(x)` gives for x [B, L...] of whole numbers."""
    return _Embedding.apply(layer, batch, x, layer.weight)  # type: ignore[no-untyped-call]


class _Embedding(Function):
    @staticmethod
    def forward(ctx: Any, layer: nn.Embedding, batch: Batch, x: Tensor, weight: Tensor) -> Tensor:
        ctx.layer, ctx.batch = layer, batch
        ctx.save_for_backward(x)
        return nn.functional.embedding(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        layer, batch = ctx.layer, ctx.batch
        (x,) = ctx.saved_tensors
        units = batch.units_of(x)
        record(layer.weight, rows_of(units, grad, x, len(layer.weight)))
        batch.paths[layer] = "book-keeping, rows looked up"
        return None, None, None, None


def rows_of(units: Units, grad: Tensor, x: Tensor, entries: int) -> BookKept:
    """Gradients of a table of V = `entries` rows.

    Args:
        units: whose examples these are.
        grad: at the output, [B, L..., E].
        x: what was looked up, whole numbers [B, L...], at least one an example.
        entries: V.
    """
    width = grad.shape[-1]
    x = x.reshape(units.examples, -1).long()
    # In the order of units, so that the rows of a unit are to it what its examples would be.
    keys, place = (units.of_examples.unsqueeze(1) * entries + x).unique(return_inverse=True)
    values = grad.new_zeros(len(keys), width)
    values.index_add_(0, place.flatten(), grad.reshape(-1, width))
    counts = (keys // entries).bincount(minlength=len(units))
    rows = Units(tuple(counts.tolist()), grad.device)
    norms = rows.sums(values.double().square().sum(dim=1)).to(grad.dtype)

    def add(values: Tensor, entry: Tensor) -> Tensor:
        return values.new_zeros(entries, width).index_add_(0, entry, values)

    def form(values: Tensor, entry: Tensor) -> Tensor:
        table = values.new_zeros(len(units), entries, width)
        table[rows.of_examples, entry] = values
        return table

    return BookKept(norms, rows, (values, keys % entries), add, form)
