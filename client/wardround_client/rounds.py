"""A site trains each round of a run once, and never goes back.

A second training of a round would spend privacy twice, and two updates from one model tell more
than one. The number of the last round lies in the node's Flower context, which belongs to one run.
"""

from flwr.app import ConfigRecord, RecordDict

from wardround_shared.errors import ProtocolError

_KEY = "training"
_ROUND = "round"


def begin_round(state: RecordDict, number: int) -> None:
    """Note in `state` that this round is trained now; its number must be above all before.

    Raises:
        ProtocolError: this round or a later one was trained before; nothing changes.
    """
    record = state.get(_KEY)
    if not isinstance(record, ConfigRecord):
        record = state[_KEY] = ConfigRecord({_ROUND: 0})
    last = record[_ROUND]
    assert isinstance(last, int)
    if number <= last:
        raise ProtocolError(
            f"The server asks for a training of round {number}, and this site has got to round "
            f"{last}; each round is trained once, so start a new run."
        )
    record[_ROUND] = number
