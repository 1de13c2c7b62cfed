"""Files that hold many examples each: how many of them may be lost.

A lost file of one example is one lost example, and the cohort's share of examples sees it. A lost
npz file or annotated record hides an unknown number of examples, thousands perhaps, so here the
files themselves are counted.
"""

from collections import Counter
from collections.abc import Sequence

from wardround_client.sources.records import RawRecord, SetAside
from wardround_shared.errors import CohortError


def require_containers(
    lost: Sequence[SetAside], examples: Sequence[int], *, share: float, kind: str
) -> None:
    """Refuse data with too many unreadable files.

    Unlike the number of examples, the number allowed is not rounded up: one file may be most of
    the data. Where no readable file holds several examples, files are examples and nothing is
    asked here.

    Args:
        lost: one entry for each file that cannot be read.
        examples: of each file that was read, how many it holds.
        share: of the files that may be lost, `data.unreadable-share`.
        kind: what the files are called in the message.

    Raises:
        CohortError: naming how many are lost, one of them, and the most frequent reason.
    """
    total = len(lost) + len(examples)
    # Rounded: 0.07 * 100 is 7.000000000000001.
    if max(examples, default=0) <= 1 or len(lost) <= round(share * total, 6):
        return
    ((reason, count),) = Counter(one.reason for one in lost).most_common(1)
    raise CohortError(
        f"the data: {len(lost)} of {total} {kind} cannot be read ({lost[0].key} for one), most "
        f"often because {reason} ({count} times); that is more than "
        f"data.unreadable-share = {share:g}."
    )


class Containers:
    """The same for files that are read one by one, each into its examples or one `SetAside`."""

    def __init__(self, share: float, *, kind: str) -> None:
        """Of nothing yet; share and kind as of `require_containers`."""
        self._share, self._kind = share, kind
        self._lost: list[SetAside] = []
        self._examples: list[int] = []

    def add(self, found: Sequence[RawRecord | SetAside]) -> None:
        """One file, as it was read."""
        lost = [one for one in found if isinstance(one, SetAside)]
        self._lost += lost
        if not lost:
            self._examples.append(len(found))

    def require(self) -> None:
        """Refuse data with too many unreadable files, once all have been read.

        Raises:
            CohortError: as `require_containers`.
        """
        require_containers(self._lost, self._examples, share=self._share, kind=self._kind)
