"""The register of answers that may be given once.

A mask used for two vectors gives their difference away. Whether a site has answered already must
therefore outlive its state, which may be lost or restored from an older copy.
"""

from typing import Protocol

from wardround_shared.secure_aggregation.faults import SpentError


class OneShots(Protocol):
    """Append-only memory of tokens, kept apart from the site's state."""

    def spend(self, token: bytes) -> None:
        """Record a token of 32 bytes for good.

        Test and record must be one step, also for several processes; the record must be on disk
        when this returns. If it cannot be written, raise: nothing is answered then.

        Raises:
            SpentError: the token is there already.
        """


class OneShotsInMemory:
    """For simulations, whose sites live and die with one process. Protects no real data."""

    def __init__(self) -> None:
        self._spent: set[bytes] = set()

    def spend(self, token: bytes) -> None:
        """Record a token; it is forgotten with the process."""
        if token in self._spent:
            raise SpentError(
                "This site has given that answer in this round already; it waits for the next."
            )
        self._spent.add(token)
