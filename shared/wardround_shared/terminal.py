"""Output to a reader who may leave early, or whose terminal does not know every letter."""

import io
import os
import sys
from typing import TextIO


def say(text: object, stream: TextIO | None = None) -> None:
    """Print one line, on standard output unless told otherwise.

    A reader who has left, as `head -1` does, ends the printing but never the run.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        # What is still buffered, and all that follows, goes nowhere: Python flushes once more as
        # it ends, and would complain then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def accept_every_letter() -> None:
    """Let a terminal that cannot show a letter show its number instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
