"""Counts of patients as a card may show them: to tens, and small ones not at all.

A card goes from hand to hand. A count of three, or a share that only three can have, may point at
somebody.
"""

FEWEST = 10


def rounded(count: float) -> str:
    """To the nearest ten; "<10" for whatever is smaller, none included."""
    if count < FEWEST:
        return f"<{FEWEST}"
    return f"{round(count / FEWEST) * FEWEST:,}"


def figure(value: float | None) -> str:
    """A metric, coarse enough that it does not give the count away that it is a share of."""
    return "not defined" if value is None else f"{value:.2f}"


def twentieth(value: float) -> str:
    """A metric of a single site: many counts have the same one."""
    return f"{round(value * 20.0) / 20.0:.2f}"


def between(interval: tuple[float, float] | None) -> str:
    """A 95 % interval."""
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
