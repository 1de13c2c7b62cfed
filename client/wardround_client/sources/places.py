"""Which frames of a file, or slices of a volume, a study takes."""

from wardround_shared.errors import UnreadableError
from wardround_shared.study import Places


def chosen(places: Places, count: int) -> tuple[int, ...]:
    """Numbers from 0 on, each once and in the order of the study.

    Args:
        places: "middle", "all", numbers from 1 on, and shares below 1 of the way through.
        count: how many there are, at least one.

    Raises:
        UnreadableError: the study names one behind the last.
    """
    if places == "all":
        return tuple(range(count))
    named = (0.5,) if places == "middle" else places
    found = tuple(int(one * count) if one < 1 else int(one) - 1 for one in named)
    if max(found) >= count:
        raise UnreadableError("there are fewer frames or slices than the study names")
    return tuple(dict.fromkeys(found))
