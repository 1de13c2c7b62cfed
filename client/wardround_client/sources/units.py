"""Units of signals: volts are converted, everything else has to be what the study says."""

from wardround_shared.errors import UnreadableError

# Both letters that are written for micro, and the letter that stands in for it.
_VOLTS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "\u00b5V": 1e-6, "\u03bcV": 1e-6, "nV": 1e-9}


def factor(stored: str, wanted: str) -> float:
    """What values in the unit of the file are multiplied by.

    Raises:
        UnreadableError: one is not the other, and not both are volts.
    """
    if wanted in {"any", stored}:
        return 1.0
    if stored in _VOLTS and wanted in _VOLTS:
        return _VOLTS[stored] / _VOLTS[wanted]
    raise UnreadableError("a lead is in another unit than data.unit says")
