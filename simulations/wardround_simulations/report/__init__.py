"""The report of a run: one self-contained HTML file for clinicians and data-protection officers.

`run` reads a run folder, `figures` draws, `markup` builds elements from text that is always
escaped, `learning` and `conduct` are the parts of the page and `page` puts them together.
"""

from pathlib import Path

from wardround_shared.errors import RunFolderError
from wardround_simulations.report.page import page
from wardround_simulations.report.run import read_run

__all__ = ["write_report"]


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Where the run's model makes images, `samples.png` as well, which the report shows.

    The file has no script and asks the network for nothing. A part that the run folder lacks is
    named in the report.

    Raises:
        RunFolderError: the folder holds no readable run, or cannot be written.
    """
    run = read_run(run_folder)
    if run.kind == "generation" and run.status == "complete":
        from wardround_simulations.generating.samples import keep_grid  # noqa: PLC0415 - torch

        keep_grid(run_folder)
        run = read_run(run_folder)
    text = page(run)
    report = run_folder / "report.html"
    unfinished = run_folder / ".report.html.unfinished"
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(report)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise RunFolderError(
            f"{report}: the report cannot be written ({error.strerror}); free some space or check "
            "who may write there."
        ) from error
    return report
