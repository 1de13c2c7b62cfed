"""Files that a label table names, each one example or several of one patient and label.

What the files are is the reader's affair.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wardround_client.sources.containers import Containers
from wardround_client.sources.examples import Example, select
from wardround_client.sources.files import (
    data_folder,
    file_fault,
    fingerprint,
    inside,
    matching,
    relative,
    walk,
)
from wardround_client.sources.index import join_files, table_index
from wardround_client.sources.pictures import PictureTargets
from wardround_client.sources.records import RawRecord, Reading, SetAside
from wardround_client.sources.static import Static, read_static
from wardround_shared.errors import UnreadableError
from wardround_shared.study import AnyImages, RecordingsData, Study

Reader = Callable[[Path], Sequence[Reading]]


class LabelledFiles:
    """Images and recordings, named by column `file` of the label table, relative to `folder`."""

    def __init__(
        self,
        study: Study,
        data: AnyImages | RecordingsData,
        folder: Path,
        *,
        read: Reader,
        endings: tuple[str, ...],
    ) -> None:
        """Find the files, open none.

        Args:
            study: as it is.
            data: its data section.
            folder: data folder.
            read: what one file holds, at least one reading; raises UnreadableError or OSError.
            endings: of file names, in small letters, that make a file one of this kind; one that
                no table names becomes part of a note.
        """
        self._study, self._data, self._folder = study, data, folder
        self._read, self._endings = read, endings
        self._root = data_folder(folder, data.folder)
        self._tables = matching(folder, data.table, "data.table")
        self._joins = join_files(data, folder)
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of tables and files."""
        files = (*self._tables, *self._joins, *walk(self._root))
        return fingerprint(self._folder, files)

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every file that the table names; one that cannot be read is set aside as a whole.

        Raises:
            CohortError: too many files with several examples cannot be read, or no class fits a
                label.
            DataError: a column is not there.
        """
        index = table_index(self._data, self._folder, self._tables)
        cells = index.column(self._data.file or "")
        index = dataclasses.replace(index, identities=cells, paths=cells)
        selection = select(index, self._study)
        self._notes = (*selection.notes, *self._unlisted(cells))
        yield from selection.set_aside
        static = read_static(index, self._data)
        pictures = PictureTargets(self._study, self._data, self._root, index)
        shares = Containers(self._data.unreadable_share, kind="files")
        for example in selection.examples:
            found = self._examples(example, cells[example.row], static, pictures)
            yield from found
            shares.add(found)
        shares.require()

    def _examples(
        self, example: Example, cell: str, static: Static | None, pictures: PictureTargets
    ) -> list[RawRecord | SetAside]:
        try:
            beside = None if static is None else static.of(example.row)
            readings = self._read(inside(self._root, cell))
            completed = [pictures.completed(example, one.main) for one in readings]
        except UnreadableError as error:
            return [example.set_aside(str(error))]
        except OSError as error:
            return [example.set_aside(file_fault(error))]
        return [
            whole.record(one.main, beside, part=one.part, sampling_rate=one.sampling_rate)
            for whole, one in zip(completed, readings, strict=True)
        ]

    def _unlisted(self, cells: list[str]) -> list[str]:
        listed = {(self._root / cell) for cell in cells}
        unlisted = [
            path
            for path in walk(self._root)
            if path.name.lower().endswith(self._endings) and path not in listed
        ]
        if not unlisted:
            return []
        place = relative(self._folder, self._root)
        kind = "signal" if isinstance(self._data, RecordingsData) else "image"
        return [f"{place}: {len(unlisted)} {kind} files are in no label table and are left out."]
