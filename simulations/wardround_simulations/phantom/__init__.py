"""Seeded chest phantoms as real DICOM files: data for a study that needs no hospital.

`write_phantom` lays a folder tree of DICOM files, masks of their lesions and a `labels.csv`, which
the DICOM source reads like any other. `anatomy` draws chests, `scanner` exposes them,
`dicom` and `masks` write files.
"""

import csv
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from wardround_shared.errors import RunFolderError
from wardround_shared.study import PhantomData
from wardround_simulations.phantom.anatomy import Lesion, draw_chest
from wardround_simulations.phantom.dicom import derived_uid, write_radiograph
from wardround_simulations.phantom.masks import write_mask
from wardround_simulations.phantom.scanner import Scanner, scanner_of

__all__ = ["EDITION", "write_phantom"]

# To be raised with every change of what is drawn or written: part of the name of kept files.
EDITION = 2

_TABLE = "labels.csv"
_COLUMNS = (
    "file",
    "mask",
    "site",
    "patient",
    "finding",
    "lesion_row",
    "lesion_column",
    "lesion_radius",
)


def write_phantom(data: PhantomData, folder: Path, *, seed: int) -> None:
    """Write DICOM files of `data.sites` hospitals and their label table, whole or not at all.

    Half of each hospital's patients have a lesion. A patient's image depends on the seed, the
    hospital's number and the patient's number only, so more patients change no file that was
    there before; the scanner depends on the hospital alone, so another seed means other patients
    of the same hospitals. The same seed gives the same bytes on every machine.

    Args:
        data: number of hospitals and patients, image size in pixels.
        folder: is created; must not exist.
        seed: 0 or more.

    Raises:
        RunFolderError: the folder exists or cannot be written.
    """
    with _whole_folder(folder) as partial:
        rows: list[tuple[object, ...]] = []
        for site in range(data.sites):
            rows += _write_site(data, partial, seed=seed, site=site)
        with (partial / _TABLE).open("w", newline="", encoding="utf-8") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(rows)


def _write_site(
    data: PhantomData, folder: Path, *, seed: int, site: int
) -> list[tuple[object, ...]]:
    """One hospital's files; returns its rows of the label table, in the order of file names."""
    name = f"site-{site + 1:0{len(str(data.sites))}d}"
    scanner = scanner_of(site, _generator(site))
    (folder / name).mkdir()
    return sorted(
        (
            _write_patient(data, folder / name, scanner, seed=seed, site=site, patient=patient)
            for patient in range(data.patients_per_site)
        ),
        key=lambda row: str(row[0]),
    )


def _write_patient(
    data: PhantomData, folder: Path, scanner: Scanner, *, seed: int, site: int, patient: int
) -> tuple[object, ...]:
    """One patient's file and row. The key is a digest, so that file order tells no label."""
    names = (seed, site, patient)
    key = f"PH{int(derived_uid('patient', *names)[len('2.25.') :]) % 16**10:010X}"
    rng = _generator(*names)
    chest = draw_chest(rng, data.size, lesion=patient % 2 == 1)
    pixels = scanner.expose(chest.attenuation, rng)
    path = folder / key / "chest.dcm"
    path.parent.mkdir()
    write_radiograph(
        path, pixels, scanner, patient=key, institution=folder.name.upper(), names=names
    )
    write_mask(path.with_name("lesion.png"), chest.mask)
    files = (f"{folder.name}/{key}/{name}" for name in ("chest.dcm", "lesion.png"))
    return (*files, folder.name, key, *_finding(chest.lesion))


def _finding(lesion: Lesion | None) -> tuple[str, str, str, str]:
    """Finding, lesion centre row and column, and radius, the last three in pixels."""
    if lesion is None:
        return ("absent", "", "", "")
    place = (lesion.row, lesion.column, lesion.radius)
    row, column, radius = (f"{value:.1f}" for value in place)
    return ("present", row, column, radius)


def _generator(*numbers: int) -> np.random.Generator:
    # Named outright: what numpy calls its default generator may change, these files may not.
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name at the end, or is removed."""
    if folder.exists():
        raise RunFolderError(f"{folder}: exists already; name a folder that does not.")
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield partial
        partial.rename(folder)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: the phantom cannot be written ({error.strerror}); free some space or "
            "name another folder."
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
