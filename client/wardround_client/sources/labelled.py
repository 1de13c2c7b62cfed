"""Files that a label table names, one example a file; what the files are is the reader's affair."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

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
from wardround_client.sources.records import RawRecord, SetAside
from wardround_shared.errors import UnreadableError
from wardround_shared.study import DicomData, ImagesData, Study

Reader = Callable[[Path], NDArray[Any]]


class LabelledFiles:
    """Images of any kind, named by column `file` of the label table, relative to `folder`."""

    def __init__(
        self,
        study: Study,
        data: ImagesData | DicomData,
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
            read: one file -> [H, W] or [H, W, 3]; raises UnreadableError or OSError.
            endings: of file names, in small letters, that make a file an image; one that no
                table names becomes part of a note.
        """
        self._study, self._data, self._folder = study, data, folder
        self._read, self._endings = read, endings
        self._root = data_folder(folder, data.folder)
        self._tables = matching(folder, data.table, "data.table")
        self._joins = join_files(data, folder)
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of tables and images."""
        files = (*self._tables, *self._joins, *walk(self._root))
        return fingerprint(self._folder, files)

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every file that the table names; one that cannot be read is set aside."""
        index = table_index(self._data, self._folder, self._tables)
        cells = index.column(self._data.file or "")
        index = dataclasses.replace(index, identities=cells, paths=cells)
        selection = select(index, self._study)
        self._notes = (*selection.notes, *self._unlisted(cells))
        yield from selection.set_aside
        pictures = PictureTargets(self._study, self._data, self._root, index)
        for example in selection.examples:
            yield self._record(example, cells[example.row], pictures)

    def _record(
        self, example: Example, cell: str, pictures: PictureTargets
    ) -> RawRecord | SetAside:
        try:
            main = self._read(inside(self._root, cell))
            example = pictures.completed(example, main)
        except UnreadableError as error:
            return example.set_aside(str(error))
        except OSError as error:
            return example.set_aside(file_fault(error))
        return example.record(main)

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
        return [f"{place}: {len(unlisted)} image files are in no label table and are left out."]
