"""What a check has found."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        check: a word for it.
        state: `warn`: it works and will not for long, or not as meant; `fail`: it does not work.
        sentence: what was found.
        remedy: what to do; empty if nothing.
    """

    check: str
    state: State
    sentence: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.state == "ok") == bool(self.remedy):
            raise ValueError("a remedy goes with what is wrong, and with nothing else")


def ok(check: str, sentence: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check=check, state="ok", sentence=sentence)


def warn(check: str, sentence: str, remedy: str) -> Finding:
    """Something will be wrong."""
    return Finding(check=check, state="warn", sentence=sentence, remedy=remedy)


def fail(check: str, sentence: str, remedy: str) -> Finding:
    """Something is wrong."""
    return Finding(check=check, state="fail", sentence=sentence, remedy=remedy)
