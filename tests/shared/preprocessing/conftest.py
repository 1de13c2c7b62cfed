"""Recipes of small studies, by kind of source."""

from collections.abc import Callable
from typing import Any

import pytest

from wardround_shared.preprocessing import Recipe
from wardround_shared.study import check_study

MakeRecipe = Callable[..., Recipe]
_LABEL = {"label": {"column": "label"}}
_SOURCES: dict[str, dict[str, Any]] = {
    "table": {
        "source": "table",
        "table": ["t.csv"],
        "features": [
            {"column": "age"},
            {"column": "pain", "kind": "categorical", "categories": ["1", "2", "3"]},
            {"column": "pressure"},
        ],
    },
    "numeric": {
        "source": "table",
        "table": ["t.csv"],
        "features": [{"column": "age"}, {"column": "pressure"}],
    },
    "image": {"source": "images", "file": "file", "table": ["t.csv"]},
    "fusion": {
        "source": "images",
        "file": "file",
        "table": ["t.csv"],
        "static": [
            {"column": "age"},
            {"column": "sex", "kind": "categorical", "categories": ["F", "M"]},
        ],
    },
    "phantom": {"source": "phantom"},
    "signal": {"source": "signals", "arrays": ["b.npz"], "sampling-rate": 360.0},
    "beats": {
        "source": "signals",
        "arrays": ["b.npz"],
        "sampling-rate": 360.0,
        "static": [
            {"column": "rr"},
            {"column": "sex", "kind": "categorical", "categories": ["F", "M"]},
            {"column": "rr", "form": "over-patient"},
        ],
        "patient": "patient",
    },
    "fhir": {
        "source": "fhir",
        "files": ["*.json"],
        "features": [
            {"name": "weight", "codes": ["http://loinc.org|29463-7"], "unit": "kg"},
            {"name": "height", "codes": ["http://loinc.org|8302-2"], "unit": "cm"},
        ],
        "prediction": {"last-encounter": True},
        "label": {"conditions": ["http://snomed.info/sct|38341003"]},
    },
    "wfdb": {"source": "wfdb", "record": "record", "table": ["t.csv"], "leads": ["MLII"]},
}
_TASKS = {
    "table": "tabular-classification",
    "images": "image-classification",
    "phantom": "image-classification",
    "fhir": "record-classification",
}


def make_recipe_of(source: str, *steps: dict[str, Any], **data: Any) -> Recipe:
    return Recipe(
        check_study(
            {
                "study": {
                    "name": "test",
                    "task": _TASKS.get(_SOURCES[source]["source"], "signal-classification"),
                    "classes": ["absent", "present"],
                },
                "data": {**_LABEL, **_SOURCES[source], **data},
                "preprocessing": {"steps": list(steps)},
                "model": {"name": "mlp"},
                "training": {"rounds": 1, "learning-rate": 0.1},
                "privacy": {"mechanism": "none"},
                "aggregation": {"secure": False},
            },
            origin="test",
        )
    )


@pytest.fixture(scope="session")
def make_recipe() -> MakeRecipe:
    """`make_recipe(source, *steps, **changes of the data section)`."""
    return make_recipe_of
