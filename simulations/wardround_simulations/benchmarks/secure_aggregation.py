"""`wardround bench secure-aggregation`: one site's and the server's work in a round.

Beside it, in alternation on the same vector: Flower's `quantize` and `pseudo_rand_gen` (the legacy
SecAgg+ workflow), and the floor, a bare AES-256-CTR key stream. One thread everywhere. P = model
parameters, N = words of a vector.
"""

import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy.typing import NDArray

from wardround_shared.evaluation import counts_length
from wardround_shared.messages import PROTOCOL_VERSION
from wardround_shared.secure_aggregation import keys, shares, wire
from wardround_shared.secure_aggregation.keys import RoundContext
from wardround_shared.secure_aggregation.masks import Mask, add_masks, add_vector
from wardround_shared.secure_aggregation.quantisation import Segment, VectorLayout, quantise
from wardround_shared.secure_aggregation.roster import smallest_threshold
from wardround_shared.secure_aggregation.streams import KEY_BYTES

PARAMETERS = (1_000_000, 10_000_000)
SITES = (3, 10, 50)
DROPPED = (0.0, 0.2)
REPEATS = 3

_FLWR_CLIPPING_RANGE = 8.0
_FLWR_TARGET_RANGE = 2**22
_FLWR_MODULUS = 2**32
_STREAM_BYTES = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Work:
    """One site's values in a federation of a size.

    Attributes:
        delta: float32 [P].
        rest: the other segments of the update: weight and metric counts of two classes.
    """

    sites: int
    delta: NDArray[np.float32]
    rest: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def layout(self) -> VectorLayout:
        """Layout of the update."""
        weight, counts = self.rest
        return VectorLayout(
            segments=(
                Segment(name="delta", length=len(self.delta), bound=_FLWR_CLIPPING_RANGE),
                Segment(name="weight", length=len(weight), bound=1e6, integral=True),
                Segment(name="counts", length=len(counts), bound=1e6, integral=True),
            ),
            sites=self.sites,
        )


def bench_secure_aggregation(
    *,
    parameters: tuple[int, ...] = PARAMETERS,
    sites: tuple[int, ...] = SITES,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """One row for each number of parameters, of sites, and share of dropped sites.

    Seconds are medians over `repeats`, ratios medians of the ratios within a repeat:

    - `site_s`: agree on a seed with every peer, quantise, add own mask and all peers' masks.
    - `flwr_site_s`: `quantize` once, and `pseudo_rand_gen` measured once and multiplied by the
      number of sites (own and peers); Flower's additions and its modulus are left out.
    - `floor_s`: as many key streams as there are sites, from the cipher's own counter mode to a
      buffer in the cache, and one addition of two vectors. A site can be below it: it has the same
      stream from the faster code of another mode (`KeyStream`).
    - `bytes_per_parameter`: all that a site sends in a round.
    - `extra_memory_over_vector`: peak of what is allocated, the result included, over the vector.
    - `server_s`: rebuild one secret for each site, add up the survivors' vectors, take their masks
      and those that they share with dropped sites off. With 3 sites none may drop out.
    """
    rows = []
    for count in parameters:
        delta = np.random.default_rng(0).normal(0.0, 0.01, count).astype(np.float32)
        rest = (np.array([1000.0]), np.ones(counts_length(2)))
        for size in sites:
            rows += _rows(Work(sites=size, delta=delta, rest=rest), repeats)
    return {"rows": rows, "repeats": repeats, "threads": 1}


def _rows(work: Work, repeats: int) -> list[dict[str, Any]]:
    vector = np.zeros(work.layout.words, dtype=np.uint32)
    runs = [
        (
            _seconds(lambda: _site(work, vector)),
            _flwr_seconds(work),
            _seconds(lambda: _floor(work.sites, vector)),
        )
        for _ in range(repeats)
    ]
    site, flwr, floor = zip(*runs, strict=True)
    row = {
        "parameters": len(work.delta),
        "sites": work.sites,
        "site_s": statistics.median(site),
        "flwr_site_s": statistics.median(flwr),
        "speedup_over_flwr": statistics.median(b / a for a, b, _ in runs),
        "floor_s": statistics.median(floor),
        "over_floor": statistics.median(a / c for a, _, c in runs),
        "bytes_per_parameter": _bytes_sent(work, vector) / len(work.delta),
        "extra_memory_over_vector": _extra_memory(work) / work.delta.nbytes,
    }
    return [row | _server_row(work, share, repeats) for share in DROPPED]


def _server_row(work: Work, share: float, repeats: int) -> dict[str, Any]:
    dropped = min(int(share * work.sites), work.sites - smallest_threshold(work.sites))
    seconds = [
        _seconds(lambda: _server(work, dropped)) for _ in range(repeats if dropped == 0 else 1)
    ]
    return {
        "dropped": share,
        "dropped_sites": dropped,
        "server_s": statistics.median(seconds),
    }


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


# --- what is measured ------------------------------------------------------------------------


def _site(work: Work, vector: NDArray[np.uint32]) -> None:
    context = _context(work)
    private, _ = keys.new_pair(os.urandom)
    _, peer = keys.new_pair(os.urandom)
    seeds = [
        keys.pairwise_seed(private, peer, context=context, mine=0, theirs=theirs)
        for theirs in range(1, work.sites)
    ]
    masks = [Mask(seed=seed, negate=False) for seed in (os.urandom(KEY_BYTES), *seeds)]
    quantise((work.delta, *work.rest), work.layout, os.urandom, vector)
    add_masks(vector, masks)


def _flwr_seconds(work: Work) -> float:
    quantising = _seconds(
        lambda: quantize([work.delta], _FLWR_CLIPPING_RANGE, _FLWR_TARGET_RANGE)  # type: ignore[list-item]
    )
    seed = os.urandom(KEY_BYTES)
    masking = _seconds(lambda: pseudo_rand_gen(seed, _FLWR_MODULUS, [work.delta.shape]))
    return quantising + work.sites * masking


def _floor(streams: int, vector: NDArray[np.uint32]) -> None:
    zeros, buffer = bytes(_STREAM_BYTES), bytearray(_STREAM_BYTES + 15)
    for _ in range(streams):
        cipher = Cipher(algorithms.AES(os.urandom(KEY_BYTES)), modes.CTR(bytes(16)))
        stream = cipher.encryptor()
        for start in range(0, vector.nbytes, _STREAM_BYTES):
            size = min(_STREAM_BYTES, vector.nbytes - start)
            stream.update_into(memoryview(zeros)[:size], buffer)
    np.add(vector, vector, out=vector)


def _server(work: Work, dropped: int) -> None:
    survivors = work.sites - dropped
    threshold = smallest_threshold(work.sites)
    dealt = shares.split(os.urandom(KEY_BYTES), threshold=threshold, sites=work.sites)
    for _ in range(work.sites):
        shares.combine(dealt[:threshold], threshold=threshold)
    received = np.zeros(work.layout.words, dtype=np.uint32)
    total = np.zeros_like(received)
    for _ in range(survivors):
        add_vector(total, received)
    streams = survivors + survivors * dropped
    add_masks(total, [Mask(seed=os.urandom(KEY_BYTES), negate=True) for _ in range(streams)])


def _extra_memory(work: Work) -> int:
    """Peak bytes allocated for one masked vector, the vector itself included."""
    tracemalloc.start()
    try:
        _site(work, np.empty(work.layout.words, dtype=np.uint32))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _bytes_sent(work: Work, vector: NDArray[np.uint32]) -> int:
    """Length of a site's five answers in a round in which nobody drops out."""
    context = _context(work)
    public = bytes(KEY_BYTES)
    share = bytes(shares.SHARE_BYTES)
    sealed = bytes(2 * shares.SHARE_BYTES + 16)
    site_keys = wire.SiteKeys(
        site=0,
        sealing=public,
        masking=public,
        commitment=public,
        signature=bytes(wire.SIGNATURE_BYTES),
    )
    sealed_to = tuple((site, sealed) for site in range(1, work.sites))
    seeds = tuple((site, share) for site in range(work.sites))
    signature = bytes(wire.SIGNATURE_BYTES)
    answers = (
        wire.encode(wire.Advertisement(context=context, keys=site_keys)),
        wire.encode(wire.SealedShares(context=context, shares=sealed_to)),
        wire.encode(wire.MaskedVector(context=context, vector=vector)),
        wire.encode(wire.Confirmation(context=context, signature=signature)),
        wire.encode(wire.UnmaskAnswer(context=context, self_seeds=seeds, masking_keys=())),
    )
    return sum(len(answer) for answer in answers)


def _context(work: Work) -> RoundContext:
    digest = work.layout.digest()
    return RoundContext(
        protocol=PROTOCOL_VERSION,
        study_id="0" * 64,
        run="bench",
        round=1,
        roster_digest=digest,
        model_digest=digest,
        layout_digest=digest,
    )
