"""Small real files with something wrong at a random place, the same ones each time."""

import random
from collections.abc import Iterator


def damaged(whole: bytes, count: int, *, within: int | None = None) -> Iterator[bytes]:
    """Copies that are cut, have bytes changed, taken out or put in.

    Args:
        whole: content of the file.
        count: of copies.
        within: how many bytes from the start on are worth changing, the header say.
    """
    chance = random.Random(20240607)
    end = min(within or len(whole), len(whole))
    for number in range(count):
        at = chance.randrange(end)
        length = chance.choice((1, 1, 2, 4, 16, 200))
        noise = chance.randbytes(length)
        match number % 5:
            case 0:
                yield whole[:at]
            case 1:
                yield whole[:at] + whole[at + length :]
            case 2:
                yield whole[:at] + noise + whole[at:]
            case 3:
                yield whole[:at] + b"\xff" * length + whole[at + length :]
            case _:
                yield whole[:at] + noise + whole[at + length :]
