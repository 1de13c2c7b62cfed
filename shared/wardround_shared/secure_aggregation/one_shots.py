"""The register of what may be done once.

A mask used for two vectors gives their difference away, and so do two sums of the same values with
one site less in the second. Whether a site has answered already must therefore outlive its state,
which may be lost or restored from an older copy.
"""

from typing import Protocol

from wardround_shared.secure_aggregation.faults import SpentError


class OneShots(Protocol):
    """Append-only memory of tokens, kept apart from the site's state.

    Test and record must be one step, also for several processes; a record must be on disk when a
    method returns. If it cannot be written, raise: nothing is answered then.
    """

    def spend(self, token: bytes) -> None:
        """Record a token of 32 bytes for good.

        Raises:
            SpentError: the token is there already.
        """

    def bind(self, token: bytes, value: bytes) -> None:
        """Record a token of 32 bytes for good, and the one thing that it was spent on.

        The same again is no second time: a site that was killed before it could answer does so
        when it is back.

        Args:
            token: not one of those that `spend` is given.
            value: 32 bytes.

        Raises:
            SpentError: the token is there already, with another value.
        """

    def spent(self, token: bytes) -> bool:
        """Whether a token is there, by `spend` or by `bind`."""


class OneShotsInMemory:
    """For simulations, whose sites live and die with one process. Protects no real data."""

    def __init__(self) -> None:
        self._spent: dict[bytes, bytes] = {}

    def spend(self, token: bytes) -> None:
        """Record a token; it is forgotten with the process."""
        if token in self._spent:
            raise SpentError(
                "This site has given that answer in this round already; it waits for the next."
            )
        self._spent[token] = b""

    def bind(self, token: bytes, value: bytes) -> None:
        """Record a token and its value; both are forgotten with the process."""
        if self._spent.setdefault(token, value) != value:
            raise SpentError("This site has answered that in another way already.")

    def spent(self, token: bytes) -> bool:
        """See `OneShots.spent`."""
        return token in self._spent
