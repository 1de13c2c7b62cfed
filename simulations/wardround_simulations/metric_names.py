"""Names of metrics for people, the ones that are looked at first in front."""

from collections.abc import Mapping

METRICS = {
    "auroc": "AUROC",
    "c_index": "C-index",
    "dice": "Dice",
    "froc": "FROC",
    "frechet": "Fréchet distance",
    "told_apart": "Told apart",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1_macro": "F1 (macro)",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "events": "Events",
    "lesions": "Lesions",
    "loss": "Loss",
}

NO_SCORES = frozenset({"events", "lesions", "loss", "frechet", "told_apart"})
"""Of which more is not better."""

NOT_IN_A_LINE = frozenset({"events", "lesions", "loss"})
"""Left out where a model's metrics stand in one line."""

_MEANINGS = {
    "auroc": "chance that an example of the class gets a higher score than one without it; "
    "0.5 is guessing, 1 is perfect.",
    "c_index": "chance that, of two patients, the one with the earlier event gets the higher risk; "
    "0.5 is guessing, 1 is perfect.",
    "dice": "twice the pixels that are rightly marked over all that are or should be, in images "
    "that have the structure; 1 is perfect.",
    "froc": "mean share of the lesions that are found at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false marks "
    "an image; 1 is perfect.",
    "frechet": "between features of real images and of made ones; 0 is the same, and lower better.",
    "told_apart": "share of real and made images that the discriminator takes for what they are; "
    "at 0.5 it cannot tell.",
    "accuracy": "share of examples that are classified correctly.",
    "balanced_accuracy": "mean over the classes of the share classified correctly.",
    "f1_macro": "mean over the classes of the harmonic mean of precision and sensitivity.",
    "sensitivity": "share of the examples truly of {positive} that are found.",
    "specificity": "share of the examples truly not of {positive} that are left out.",
    "events": "patients whose event was seen until the horizon.",
    "lesions": "in the images that were measured on.",
    "loss": "mean negative log-likelihood of what is true; lower is better.",
}

# Accuracy says little where one class is rare.
_FIRST = ("auroc", "c_index", "dice", "froc", "frechet", "balanced_accuracy")

_OF_KIND = {
    "segmentation": {
        "specificity": "share of the images without the structure in which nothing is marked.",
        "loss": "mean cross-entropy, and one minus the soft Dice score; lower is better.",
    },
    "localisation": {
        "sensitivity": "share of the lesions that are found at one false mark an image.",
    },
    "generation": {"loss": "of the discriminator, on a real image and a made one."},
    "labelling": {"accuracy": "share of the steps that are classified correctly."},
}
"""Where a metric means something else in a task of that kind."""

# Of one finding among several, as in "auroc MI".
_OF_ONE = {"auroc ": "AUROC ", "dice ": "Dice "}


def named(metrics: Mapping[str, object]) -> dict[str, str]:
    """Key -> name of all metrics that are there (n apart), in the order in which to show them."""
    shown = {key: name for key, name in METRICS.items() if key in metrics}
    single = {
        key: name + key.removeprefix(start)
        for key in metrics
        for start, name in _OF_ONE.items()
        if key.startswith(start)
    }
    return shown | single


def first_of(metrics: Mapping[str, object]) -> str | None:
    """The metric that says most in one figure; None where there is none."""
    return next((key for key in _FIRST if metrics.get(key) is not None), None)


def meanings(metrics: Mapping[str, object], *, kind: str, positive: str) -> dict[str, str]:
    """Name -> meaning of the metrics that are there, in a task of this kind.

    Args:
        metrics: of a model.
        kind: of the task, as `classification`.
        positive: what is found or missed, in words.
    """
    own = _OF_KIND.get(kind, {})
    return {
        name: own.get(key, _MEANINGS[key]).format(positive=positive)
        for key, name in METRICS.items()
        if key in metrics
    }
