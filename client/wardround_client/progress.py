"""How far long work at a site has got, for whoever watches that it goes on."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Is told stage, what is done of it, and the whole of it, which is 0 where nobody knows it.

It is called once for each step of a training and must return at once. The numbers tell how many
examples a site has: what leaves the site may say that it goes on, and not how far.
"""

READING = "reading"
PREPARING = "preparing"
EVALUATING = "evaluating"
TRAINING = "training"


def unwatched(_stage: str, _done: int, _whole: int) -> None:
    """Nobody watches."""
