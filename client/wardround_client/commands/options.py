"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path,
    typer.Option(envvar="WARDROUND_SITE_HOME", help="Folder of this site.", show_default=False),
]
StudyId = Annotated[str, typer.Argument(help="The study's id, or its first letters.")]
DataName = Annotated[str, typer.Option("--data", help="Name of the data set.")]
