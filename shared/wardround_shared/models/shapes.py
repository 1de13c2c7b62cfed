"""What the examples of a model have to be: sentences for a study whose examples are others."""

from wardround_shared.errors import StudyError


def require_image(name: str, shape: tuple[int, ...], *, smallest: int, remedy: str) -> None:
    """Refuse examples that are no images [C, H, W], or too small ones.

    Raises:
        StudyError: they are.
    """
    if len(shape) != 3:
        raise StudyError(
            f"model.name: {name} takes images, and the examples have shape {shape}; take mlp for "
            "tables and lstm for signals."
        )
    _, height, width = shape
    if min(height, width) < smallest:
        raise StudyError(
            f"model.name: {name} needs images of at least {smallest} x {smallest} pixels, and they "
            f"have {height} x {width}; {remedy}."
        )


def require_signal(name: str, shape: tuple[int, ...]) -> None:
    """Refuse examples that are no signals [C, T].

    Raises:
        StudyError: they are not.
    """
    if len(shape) != 2:
        raise StudyError(
            f"model.name: {name} takes signals, and the examples have shape {shape}; take mlp "
            "for tables and cnn for images."
        )
