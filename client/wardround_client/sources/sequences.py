"""`source = "sequences"`: npz files of many steps, cut into examples. C = channels, T = steps."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.arrays import opened
from wardround_client.sources.cells import canonical, marks
from wardround_client.sources.examples import Example, select
from wardround_client.sources.files import data_folder, fingerprint, inside, matching
from wardround_client.sources.index import join_files, table_index
from wardround_client.sources.records import RawRecord, SetAside
from wardround_client.sources.targets import Target, meanings
from wardround_shared.errors import CohortError, UnreadableError
from wardround_shared.study import SequencesData, Study
from wardround_shared.tasks import NO_CLASS


class SequenceSource:
    """Files named in a table, relative to `folder`; `main` is float32 [C, length]."""

    def __init__(self, study: Study, data: SequencesData, folder: Path) -> None:
        self._study, self._data, self._folder = study, data, folder
        self._root = data_folder(folder, data.folder)
        self._tables = matching(folder, data.table, "data.table")
        self._joins = join_files(data, folder)
        self._missing = marks(data.missing)
        # Inputs of a trained model have no label.
        self._labels = None if data.label is None else data.label.column
        self._meaning = {} if data.label is None else meanings(study, data.label)
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of tables and files."""
        files = self._root.rglob("*.npz")
        return fingerprint(self._folder, (*self._tables, *self._joins, *files))

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every example of every file that the table names; a file that fails is set aside.

        Raises:
            CohortError: a step's label is none of the study's classes.
            DataError: a column is not there.
        """
        index = table_index(self._data, self._folder, self._tables)
        cells = index.column(self._data.record)
        index = dataclasses.replace(index, identities=cells, paths=cells)
        selection = select(index, self._study)
        self._notes = selection.notes
        yield from selection.set_aside
        for example in selection.examples:
            yield from self.examples_of(example, cells[example.row])

    def examples_of(self, example: Example, cell: str) -> Iterator[RawRecord | SetAside]:
        """The examples of one file, or that it cannot be read.

        Args:
            example: that the file is as a whole.
            cell: its name, as in the table.

        Raises:
            CohortError: a step's label is none of the study's classes.
        """
        try:
            steps, labels = self._read(example, cell)
        except UnreadableError as error:
            yield example.set_aside(str(error))
            return
        for start in range(0, len(steps), self._data.length):
            yield self._cut(example, steps, labels, start)

    def _read(self, example: Example, cell: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The steps [T, C] of a file, and the class of each [T]; 0 where the study names none."""
        with opened(inside(self._root, f"{cell}.npz")) as file:
            if not {self._data.steps, self._labels or self._data.steps} <= {*file.files}:
                raise UnreadableError("the file lacks an array that the study names")
            steps = file[self._data.steps]
            texts = None if self._labels is None else file[self._labels]
        if steps.ndim != 2 or not np.issubdtype(steps.dtype, np.number) or not len(steps):
            raise UnreadableError("the steps are no array of numbers [steps, channels]")
        if texts is None:
            return steps.astype(np.float32), np.zeros(len(steps), dtype=np.int64)
        if texts.shape != steps.shape[:1]:
            raise UnreadableError("steps and labels differ in length")
        return steps.astype(np.float32), self._classes(example, texts)

    def _classes(self, example: Example, texts: NDArray[Any]) -> NDArray[np.int64]:
        distinct, place = np.unique(texts, return_inverse=True)
        return np.array([self._class(example, str(text)) for text in distinct.tolist()])[place]

    def _class(self, example: Example, text: str) -> int:
        known = canonical(text.strip())
        if known in self._meaning:
            return self._meaning[known]
        if known in self._missing:
            return NO_CLASS
        raise CohortError(
            f"{example.key}: array {self._labels} holds {text!r}, which is none of the study's "
            f"classes ({', '.join(self._study.study.classes)}); name it in data.label.values, or "
            "in data.missing."
        )

    def _cut(
        self,
        example: Example,
        steps: NDArray[np.float32],
        labels: NDArray[np.int64],
        start: int,
    ) -> RawRecord:
        """One example; what lacks at the end of a file is its last step again, without a class."""
        length = self._data.length
        main, target = steps[start : start + length], labels[start : start + length]
        lacking = length - len(main)
        main = np.pad(main, ((0, lacking), (0, 0)), mode="edge")
        target = np.pad(target, (0, lacking), constant_values=NO_CLASS)
        cut = dataclasses.replace(
            example,
            key=f"{example.key}, step {start}",
            target=Target(stratum=0, values=target.astype(np.int64)),
        )
        return cut.record(np.ascontiguousarray(main.T))
