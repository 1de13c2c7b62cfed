"""Libraries that read patient files warn in words of the file: nothing of it may be heard."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unheard(*loggers: str) -> Iterator[None]:
    """Suppress warnings, and close these loggers for good.

    pydicom and nibabel log what they warn of, and a log is kept: what a header holds must not get
    into it, whichever thread reads the next file.
    """
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
