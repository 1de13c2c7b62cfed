"""Masks of a segmentation as PNG files of the original image's size. K = classes."""

from pathlib import Path

from wardround_shared.errors import RunError
from wardround_shared.study import Study
from wardround_simulations.prediction.answers import Answer
from wardround_simulations.prediction.areas import mask_of
from wardround_simulations.prediction.attachments import NewFolder
from wardround_simulations.prediction.prediction import Prediction

# What is around the classes is black; colours that most people can tell apart (Okabe, Ito 2008).
_COLOURS = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


class Masks:
    """One PNG an input: pixels are numbers of classes, which a palette shows in colour."""

    kind = "mask"

    def __init__(self, study: Study, folder: NewFolder) -> None:
        """Nothing is written yet.

        Raises:
            RunError: the study's answers are no masks.
        """
        if study.study.kind != "segmentation":
            raise RunError(
                f"--masks: the task of this run is {study.study.task}, which answers no masks; "
                "leave it out."
            )
        self._folder = folder
        self._palette = [
            value
            for k in range(len(study.study.classes))
            for value in (_COLOURS[1 + (k - 1) % (len(_COLOURS) - 1)] if k else _COLOURS[0])
        ]

    def write(self, one: Prediction, answer: Answer) -> tuple[Path, ...]:
        """See `Attachment.write`."""
        from PIL import Image  # noqa: PLC0415 - slow import

        image = Image.fromarray(mask_of(one)).convert("P")
        image.putpalette(self._palette)

        def write(file: Path) -> None:
            image.save(file, format="PNG")

        return (self._folder.write(f"{self._folder.next(one)}.png", write),)
