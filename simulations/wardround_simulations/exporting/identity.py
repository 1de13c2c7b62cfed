"""What an exported model says of itself, whatever its format."""

from typing import Any

from wardround_shared import __version__
from wardround_shared.preprocessing import Recipe
from wardround_shared.study import study_text
from wardround_simulations.evaluation import FinishedRun

KEY = "wardround"
"""Under which the description stands in a file's own metadata."""

INPUTS = ("main", "static")
OUTPUT = "output"

_MEANING = {
    "classification": "logits, one a class: softmax makes probabilities of them",
    "multilabel-classification": "logits, one a finding: the sigmoid makes probabilities of them",
    "survival": "log of the relative hazard, then of the baseline hazard on each interval",
}


def identity_of(run: FinishedRun) -> dict[str, Any]:
    """Study, classes, shapes and every constant of the preprocessing, as JSON takes it.

    The network takes what the preprocessing leaves; whoever feeds it has to repeat that. The
    constants are those of the run to the last bit: a float64 survives JSON as Python writes it.
    """
    study = run.study
    shapes = Recipe(study).output_shapes(run.shapes)
    kind = study.study.kind
    return {
        "study": study.study.name,
        "study_id": study.study_id,
        "study_toml": study_text(study),
        "task": study.study.task,
        "classes": list(study.study.classes),
        "model": study.model.model_dump(mode="json", by_alias=True),
        "inputs": {name: ["batch", *shape] for name, shape in zip(INPUTS, shapes, strict=False)},
        "output": _MEANING.get(kind, f"what the model puts out for the task {study.study.task}"),
        "preprocessing": {
            "steps": study.preprocessing.model_dump(mode="json", by_alias=True)["steps"],
            "fitted": [
                {"step": name} | {key: array.tolist() for key, array in sorted(constants.items())}
                for name, constants in zip(Recipe(study).needs_fit, run.fitted, strict=True)
            ],
            "decoded_shapes": [list(shape) for shape in run.shapes],
        },
        "private": study.privacy.private,
        "privacy": study.privacy.model_dump(mode="json", by_alias=True),
        "trained_with": run.software,
        "exported_with": __version__,
    }
