"""Masks for one vector: what a site holds between accepting a request and answering it.

The right to the answer is spent by then, so that nothing that happens to the vector, or to the
data that it is made of, can give the request a second answer. N = words of a vector.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wardround_shared.secure_aggregation.faults import MessageError, SpentError
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.masks import Mask, add_masks
from wardround_shared.secure_aggregation.quantisation import VectorLayout
from wardround_shared.secure_aggregation.wire import MaskedVector


class OneMask:
    """Masks one vector, once. Sensitive: it holds the seeds of the masks, and is never stored."""

    def __init__(
        self, *, context: RoundContext, layout: VectorLayout, masks: Sequence[Mask]
    ) -> None:
        self._context = context
        self._layout = layout
        self._masks: Sequence[Mask] | None = masks

    def apply(self, vector: NDArray[np.uint32]) -> MaskedVector:
        """Mask the vector in place; the seeds are forgotten.

        Args:
            vector: uint32 [N], quantised; overwritten with the masked vector.

        Raises:
            MessageError: it does not have the layout that was accepted; it is as it was.
            SpentError: a vector was masked before.
        """
        if vector.shape != (self._layout.words,) or vector.dtype != np.uint32:
            raise MessageError("The vector to be masked does not fit the round's layout.")
        if self._masks is None:
            raise SpentError("These masks have covered a vector already.")
        masks, self._masks = self._masks, None
        add_masks(vector, masks, wide=self._layout.wide)
        return MaskedVector(context=self._context, vector=vector)
