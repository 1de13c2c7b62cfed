"""All models with what they take, for people: `wardround models`."""

from dataclasses import dataclass

import torch
from pydantic import TypeAdapter

from wardround_shared.models import Answers, build_model, parameter_count
from wardround_shared.study import MODEL_NAMES, Model, UNet

Shapes = tuple[tuple[int, ...], ...]

_EXAMPLES: dict[str, Shapes] = {
    "table": ((13,),),
    "signal": ((12, 1000),),
    "image": ((1, 224, 224),),
    "text": ((1, 256),),
}
"""One example of each kind: 13 columns, 10 s of 12 leads at 100 Hz, a grey image, 256 words."""

_TAKES = {
    "mlp": "table",
    "cnn": "image",
    "resnet18": "image",
    "resnet50": "image",
    "densenet121": "image",
    "unet": "image",
    "dcgan": "image",
    "cnn1d": "signal",
    "lstm": "signal",
    "gru": "signal",
    "cnn-lstm": "signal",
    "bilstm": "text",
}
"""Kind of example by name; a test compares it with the names that a study may have."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A model as the list shows it.

    Attributes:
        takes: kind of example.
        shapes: of one such example.
        parameters: with default settings, these shapes and two classes.
        settings: key -> default, as a study writes them.
        about: what it is, in a sentence.
    """

    name: str
    takes: str
    shapes: Shapes
    parameters: int
    settings: dict[str, object]
    about: str


def catalogue() -> list[Listed]:
    """All models, tables first."""
    listed = []
    for name in sorted(MODEL_NAMES, key=lambda name: list(_EXAMPLES).index(_TAKES[name])):
        model: Model = TypeAdapter(Model).validate_python({"name": name})
        shapes = _EXAMPLES[_TAKES[name]]
        with torch.random.fork_rng(devices=[]):
            answers: Answers = "pixel" if isinstance(model, UNet) else "example"
            parameters = parameter_count(build_model(model, shapes, 2, answers))
        settings = model.model_dump(mode="json", by_alias=True)
        del settings["name"]
        listed.append(
            Listed(
                name=name,
                takes=_TAKES[name],
                shapes=shapes,
                parameters=parameters,
                settings=settings,
                about=(type(model).__doc__ or "").split("\n", 1)[0],
            )
        )
    return listed
