"""Secure aggregation: the server can read nothing but the sum. See docs/protocol.md.

From the values outwards: `quantisation` makes ring elements of them, `masks` hides those with
`streams` of key bytes, `keys` agrees on the seeds, `shares` deals them so that drop-outs do no
harm. There is no IO, clock, disk or network in here.

The names below are the public face.
"""

from wardround_shared.secure_aggregation.keys import Identity as Identity
from wardround_shared.secure_aggregation.keys import RoundContext as RoundContext
from wardround_shared.secure_aggregation.masks import Mask as Mask
from wardround_shared.secure_aggregation.masks import add_mask as add_mask
from wardround_shared.secure_aggregation.masks import add_masks as add_masks
from wardround_shared.secure_aggregation.masks import add_vector as add_vector
from wardround_shared.secure_aggregation.quantisation import Segment as Segment
from wardround_shared.secure_aggregation.quantisation import VectorLayout as VectorLayout
from wardround_shared.secure_aggregation.quantisation import dequantise as dequantise
from wardround_shared.secure_aggregation.quantisation import quantise as quantise
from wardround_shared.secure_aggregation.streams import RandomBytes as RandomBytes

__all__ = [
    "Identity",
    "Mask",
    "RandomBytes",
    "RoundContext",
    "Segment",
    "VectorLayout",
    "add_mask",
    "add_masks",
    "add_vector",
    "dequantise",
    "quantise",
]
