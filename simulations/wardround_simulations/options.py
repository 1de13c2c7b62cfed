"""What several commands take: a study by name or file, and the folder of decoded cohorts."""

import os
from pathlib import Path
from typing import Annotated

import typer

from wardround_shared.errors import StudyError

Cache = Annotated[
    Path | None, typer.Option(help="Folder of decoded cohorts [default: ~/.cache/wardround].")
]


def find_study(name: str) -> Path:
    """The study file that a path or the name of a shipped study means.

    Raises:
        StudyError: there is none.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    shipped = studies_folder()
    found = shipped / f"{name}.toml"
    if not found.is_file():
        names = ", ".join(sorted(file.stem for file in shipped.glob("*.toml")))
        raise StudyError(f"{name}: no such study file, and none of the shipped studies ({names}).")
    return found


def studies_folder() -> Path:
    """Where the shipped studies lie: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "studies"
    return inside if inside.is_dir() else package.parent / "studies"


def default_cache() -> Path:
    """`$WARDROUND_CACHE`, else the user's cache folder."""
    configured = os.environ.get("WARDROUND_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "wardround"
