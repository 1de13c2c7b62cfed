"""Small finished runs over each kind of data, for the tests of what is done with a model."""

import csv
import warnings
from pathlib import Path

import numpy as np
from federations import Silent, settings_of

from wardround_simulations.federation import simulate

TAIL = """
[training]
rounds = 1
learning-rate = 0.05

[privacy]
mechanism = "none"

[aggregation]
secure = false
minimum-sites = 2
"""

IMAGES = """
[study]
name = "small-images"
task = "image-classification"
classes = ["absent", "present"]

[data]
source = "images"
table = ["labels.csv"]
file = "file"
label = { column = "finding" }
site = { column = "site" }

[preprocessing]
steps = [{ name = "standardise" }]

[model]
name = "cnn"
width = 4
dense = 4
"""

ARRAYS = IMAGES.replace('table = ["labels.csv"]\nfile = "file"', 'arrays = ["*.npz"]').replace(
    'column = "finding"', 'column = "*labels"'
)

BEATS = """
[study]
name = "small-beats"
task = "signal-classification"
classes = ["N", "S", "V"]

[data]
source = "signals"
arrays = ["beats.npz"]
sampling-rate = 100.0
label = { column = "kind" }
patient = "patient"
site = { column = "site" }
static = [{ column = "rr", form = "over-patient" }]
patient-median = true

[preprocessing]
steps = [{ name = "standardise" }, { name = "impute", indicator = false }]

[model]
name = "gru"
hidden = 4
dense = 4
"""

RECORDS = """
[study]
name = "small-records"
task = "signal-multilabel-classification"
classes = ["MI", "CD"]

[data]
source = "wfdb"
table = ["records.csv"]
folder = "records"
record = "record"
leads = ["II", "V1"]
label = { column = "codes", containing = { MI = ["mi"], CD = ["cd"] } }
site = { column = "site" }
static = [{ column = "age" }]

[preprocessing]
steps = [
    { name = "band-pass", low = 1.0, high = 30.0 },
    { name = "crop", length = 120 },
    { name = "impute", indicator = false },
    { name = "standardise", part = "static" },
]

[model]
name = "cnn1d"
width = 4
blocks = 2
dense = 4
"""

SITES = ("north", "south")


def trained(study: str, data: Path | None, place: Path, *overrides: str) -> Path:
    """A run folder."""
    file = place / "study.toml"
    file.write_text(study, encoding="utf-8")
    simulate(settings_of(file, data, place / "run", *overrides), Silent())
    return place / "run"


def write_table(file: Path, *rows) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows(rows)


def write_images(folder: Path, *, each: int = 12, size: int = 12) -> list[tuple[Path, int]]:
    """PNG files with a label table: a bright square where there is a finding."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, files = [], []
    for number in range(2 * each):
        pixels = rng.integers(0, 120, (size, size)).astype(np.uint8)
        label = number % 3 % 2
        if label:
            pixels[3:7, 3:7] = 220
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        rows.append([path.name, ("absent", "present")[label], SITES[number % 2]])
        files.append((path, label))
    write_table(folder / "labels.csv", ["file", "finding", "site"], *rows)
    return files


def write_records(folder: Path, *, each: int = 10, length: int = 120) -> list[tuple[Path, list]]:
    """WFDB records with a table of findings and ages."""
    rng = np.random.default_rng(1)
    (folder / "records").mkdir()
    rows, files = [], []
    for number in range(2 * each):
        findings = [int(rng.random() < 0.5), int(rng.random() < 0.5)]
        signal = rng.normal(0, 0.2, (length, 3)) + np.sin(np.arange(length))[:, None] * findings[0]
        _write_record(folder / "records", f"r{number}", signal)
        codes = "+".join(name for name, there in zip(("mi", "cd"), findings, strict=True) if there)
        age = 40 + number if number % 5 else ""
        rows.append([f"r{number}", codes or "well", SITES[number % 2], age])
        files.append((folder / "records" / f"r{number}", findings))
    write_table(folder / "records.csv", ["record", "codes", "site", "age"], *rows)
    return files


def _write_record(folder: Path, name: str, signal: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about wfdb
        import wfdb

        wfdb.wrsamp(
            name,
            fs=100,
            units=["mV"] * 3,
            sig_name=["I", "II", "V1"],
            p_signal=signal,
            fmt=["16"] * 3,
            write_dir=str(folder),
        )


def write_beats(folder: Path, *, each: int = 30) -> list[int]:
    """Beats of a few patients in one npz file; their labels."""
    rng = np.random.default_rng(2)
    n = 2 * each
    label = rng.integers(0, 3, n)
    signal = rng.normal(0, 0.3, (n, 40)) + label[:, None] * np.sin(np.arange(40) / 4.0)
    np.savez(
        folder / "beats.npz",
        X=signal.astype(np.float32),
        kind=np.array(["N", "S", "V"])[label],
        patient=np.array([f"p{number // 5}" for number in range(n)]),
        site=np.array([SITES[number // each] for number in range(n)]),
        rr=rng.uniform(0.5, 1.2, n),
    )
    return label.tolist()


SEQUENCES = """
[study]
name = "small-nights"
task = "sequence-labelling"
classes = ["W", "N", "R"]

[data]
source = "sequences"
table = ["nights.csv"]
record = "night"
length = 8
label = { column = "y", values = { W = ["0"], N = ["1"], R = ["2"] } }
site = { column = "site" }

[preprocessing]
steps = [{ name = "standardise" }]

[model]
name = "lstm"
hidden = 4
dense = 4
"""

NOTES = """
[study]
name = "small-notes"
task = "text-classification"
classes = ["absent", "present"]

[data]
source = "text"
table = ["*.csv"]
text = ["note"]
label = { column = "finding" }
site = { file = "(.+)[.]csv" }

[preprocessing]
steps = [{ name = "hash-words", length = 16, runs = 2 }]

[model]
name = "bilstm"
buckets = 512
embedding = 4
hidden = 4
"""

VOLUMES = """
[study]
name = "small-volumes"
task = "image-classification"
classes = ["absent", "present"]

[data]
source = "nifti"
table = ["labels.csv"]
file = "file"
slices = [1, 3]
patient = "file"
label = { column = "finding" }
site = { column = "site" }
static = [{ column = "age" }]

[preprocessing]
steps = [
    { name = "standardise" },
    { name = "impute", indicator = false },
    { name = "standardise", part = "static" },
]

[model]
name = "cnn"
width = 4
dense = 4
"""


def write_nights(folder: Path, *, each: int = 3) -> list[tuple[Path, np.ndarray]]:
    """npz files of steps with a table; no file is a whole number of examples long."""
    rng = np.random.default_rng(6)
    rows, files = [], []
    for number in range(2 * each):
        labels = rng.integers(0, 3, 19 + number)
        path = folder / f"n{number}.npz"
        steps = rng.normal(0, 0.3, (len(labels), 2)) + labels[:, None]
        np.savez(path, X=steps.astype(np.float32), y=labels)
        rows.append([path.stem, SITES[number % 2]])
        files.append((path, labels))
    write_table(folder / "nights.csv", ["night", "site"], *rows)
    return files


def write_notes(folder: Path, *, each: int = 20) -> dict[str, list[int]]:
    """A table of notes for each site; their labels."""
    rng = np.random.default_rng(7)
    found = {}
    for site in SITES:
        labels = rng.integers(0, 2, each).tolist()
        rows = [
            [("blank", "dense")[label] + f" lung,\nnumber {number}", ("absent", "present")[label]]
            for number, label in enumerate(labels)
        ]
        write_table(folder / f"{site}.csv", ["note", "finding"], *rows)
        found[site] = labels
    return found


def write_volumes(folder: Path, *, each: int = 8) -> list[tuple[Path, int]]:
    """NIfTI volumes with a label table and ages."""
    import nibabel

    rng = np.random.default_rng(8)
    rows, files = [], []
    for number in range(2 * each):
        label = number // 2 % 2
        path = folder / f"v{number}.nii.gz"
        volume = rng.normal(40 * label, 20, (8, 8, 4)).astype(np.int16)
        nibabel.Nifti1Image(volume, np.eye(4)).to_filename(path)
        rows.append([path.name, ("absent", "present")[label], SITES[number % 2], 40 + number])
        files.append((path, label))
    write_table(folder / "labels.csv", ["file", "finding", "site", "age"], *rows)
    return files
