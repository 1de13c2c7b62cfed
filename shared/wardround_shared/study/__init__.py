"""The study file: what is to be learned, as frozen models that are checked once, at the edge.

A study is one TOML file. `load_study` parses and checks it; everything behind it works with the
frozen models below and never looks a key up by name. Keys are written with hyphens in TOML.
Units are in the names or the docstrings.
"""

from wardround_shared.study.data import (
    Data,
    DicomData,
    Feature,
    ImagesData,
    IndexedData,
    Join,
    Label,
    PhantomData,
    SequencesData,
    SignalsData,
    SiteKey,
    StaticFeature,
    TableData,
    TextData,
    WfdbData,
)
from wardround_shared.study.disclosure import Disclosure, disclosures
from wardround_shared.study.document import (
    Identity,
    Kind,
    Study,
    Task,
)
from wardround_shared.study.learning import (
    Aggregation,
    Privacy,
    Simulation,
    Training,
)
from wardround_shared.study.models import (
    MODEL_NAMES,
    Backbone,
    Bilstm,
    Cnn,
    Cnn1d,
    CnnLstm,
    Gru,
    Lstm,
    Mlp,
    Model,
)
from wardround_shared.study.preprocessing import (
    Augment,
    BandPass,
    Crop,
    HashWords,
    Histogram,
    Impute,
    Normalise,
    OneHot,
    Preprocessing,
    Resample,
    Resize,
    Standardise,
    Step,
    Window,
)
from wardround_shared.study.reading import (
    check_study,
    load_study,
    parse_study,
)
from wardround_shared.study.targets import Survival
from wardround_shared.study.writing import study_text

__all__ = [
    "MODEL_NAMES",
    "Aggregation",
    "Augment",
    "Backbone",
    "BandPass",
    "Bilstm",
    "Cnn",
    "Cnn1d",
    "CnnLstm",
    "Crop",
    "Data",
    "DicomData",
    "Disclosure",
    "Feature",
    "Gru",
    "HashWords",
    "Histogram",
    "Identity",
    "ImagesData",
    "Impute",
    "IndexedData",
    "Join",
    "Kind",
    "Label",
    "Lstm",
    "Mlp",
    "Model",
    "Normalise",
    "OneHot",
    "PhantomData",
    "Preprocessing",
    "Privacy",
    "Resample",
    "Resize",
    "SequencesData",
    "SignalsData",
    "Simulation",
    "SiteKey",
    "Standardise",
    "StaticFeature",
    "Step",
    "Study",
    "Survival",
    "TableData",
    "Task",
    "TextData",
    "Training",
    "WfdbData",
    "Window",
    "check_study",
    "disclosures",
    "load_study",
    "parse_study",
    "study_text",
]
