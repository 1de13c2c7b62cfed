"""A site trains each round of a run once, and never goes back.

A second training of a round would spend privacy twice, and two updates from one model tell more
than one. So the number of the last round is kept, and each is paid for once. A round whose training
broke off before anything of it was stored or sent is begun again, on the same payment.
"""

from flwr.app import ConfigRecord

from wardround_client.account import Account, Reservation
from wardround_client.run_state import RunState
from wardround_shared.errors import ProtocolError
from wardround_shared.messages import Header

_KEY = "training"
_ROUND = "round"


def begin_round(state: RunState, number: int, *, repeats: bool = False) -> None:
    """Note in `state` that this round is trained now; its number must be above all before.

    Args:
        state: of the run.
        number: of the round.
        repeats: whether the last round may be begun again. Only for a site that stores what it
            answers before it sends it, and has looked there first.

    Raises:
        ProtocolError: this round or a later one was trained before; nothing changes.
    """
    record = state.get(_KEY)
    last = record[_ROUND] if isinstance(record, ConfigRecord) else 0
    assert isinstance(last, int)
    if repeats and number == last > 0:
        return
    if number <= last:
        raise ProtocolError(
            f"The server asks for a training of round {number}, and this site has got to round "
            f"{last}; each round is trained once, so start a new run."
        )
    state[_KEY] = ConfigRecord({_ROUND: number})


class RoundPayment:
    """The one training of a round: begun, paid for, and settled when it has ended."""

    def __init__(
        self, *, account: Account | None, state: RunState, header: Header, repeats: bool
    ) -> None:
        """A round that is not begun yet.

        Args:
            account: to pay from; None only if the study is not private.
            state: of the run.
            header: of the request.
            repeats: see `begin_round`.
        """
        self._account = account
        self._state = state
        self._header = header
        self._repeats = repeats
        self.reservation: Reservation | None = None

    def begin(self) -> None:
        """Pay, before any data are touched.

        Raises:
            ProtocolError: the round, or a later one, was trained before.
            BudgetError: the ledger has no room for it.
            PrivacyError: see `Account.reserve`.
        """
        begin_round(self._state, self._header.round, repeats=self._repeats)
        if self._account is not None:
            self.reservation = self._account.reserve(
                self._state, self._header, take_up=self._repeats
            )

    def settle(self) -> None:
        """Note that the training has ended, in this process or before a crash.

        Raises:
            PrivacyError: see `Account.settle`.
        """
        if self._account is None:
            return
        if self.reservation is None:
            self._account.settle(self._state, self._header)
        else:
            self._account.commit(self.reservation)
