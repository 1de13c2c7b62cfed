"""npz files as the index: one-dimensional arrays are columns, and one array holds the examples.

n = examples of a file.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.containers import Containers, require_containers
from wardround_client.sources.examples import Example, patient_of_rows, select
from wardround_client.sources.files import file_fault, fingerprint, matching, relative
from wardround_client.sources.index import Cells, Index, columns_read, join_files, joined
from wardround_client.sources.records import RawRecord, Reading, SetAside
from wardround_client.sources.static import Static, read_static
from wardround_client.sources.windows import cut
from wardround_client.sources.within_patient import median_signals
from wardround_shared.errors import DataError, StudyError, UnreadableError
from wardround_shared.study import ImagesData, SignalsData, Study


@dataclass(frozen=True, kw_only=True)
class _Block:
    """The arrays of one file that belong together.

    Attributes:
        origin: file, relative to the data folder.
        main: name of the array that holds the examples.
        columns: cells [n] by the name that the study gives the column.
        names: of all arrays in the file.
        rows: n, where there are no columns.
    """

    path: Path
    origin: str
    main: str
    columns: dict[str, Cells]
    names: tuple[str, ...]
    rows: int

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), range(self.rows)))


@contextmanager
def opened(path: Path) -> Iterator["np.lib.npyio.NpzFile"]:
    """An npz file; whatever is wrong with it becomes an UnreadableError.

    Pickled arrays are refused: to read one is to run what is in it.
    """
    try:
        # Opened here: NumPy leaves the file open when it is no zip archive.
        with path.open("rb") as raw, _zipped(np.load(raw, allow_pickle=False)) as file:
            yield file
    except OSError as error:
        raise UnreadableError(file_fault(error)) from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableError("this is not a readable npz file, or it is truncated") from error


def _zipped(loaded: Any) -> "np.lib.npyio.NpzFile":
    """What NumPy loaded, if it is an archive and not a single array."""
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise UnreadableError("this is not an npz file")
    return loaded


def _texts(array: NDArray[Any]) -> Cells:
    """Cells of an array [n] or [n, 1]: numbers as they are written, text without blanks."""
    return [str(value).strip() for value in array.reshape(len(array)).tolist()]


def _is_column(array: NDArray[Any]) -> bool:
    return array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)


class ArraySource:
    """Examples that are rows of arrays in npz files, together with the columns beside them."""

    def __init__(
        self,
        study: Study,
        data: ImagesData | SignalsData,
        folder: Path,
        *,
        pattern: str,
        example: Callable[[NDArray[Any]], NDArray[Any]],
    ) -> None:
        """Find the files, open none.

        Args:
            study: as it is.
            data: its data section; a `*` in the name of a column stands for the same text as
                in the name of the array.
            folder: data folder.
            pattern: name of the arrays that hold examples, with at most one `*`.
            example: what makes one example of one row; raises UnreadableError.
        """
        if data.table:
            raise StudyError("data.table: with arrays, further tables come by data.join.")
        if pattern.count("*") > 1:
            raise StudyError(f"data.images: {pattern!r} has more than one *.")
        self._study, self._data, self._folder = study, data, folder
        self._pattern, self._example = pattern, example
        self._files = matching(folder, data.arrays, "data.arrays")
        self._joins = join_files(data, folder)
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of the arrays and joined tables."""
        return fingerprint(self._folder, (*self._files, *self._joins))

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every row of the arrays; a file that cannot be read is set aside as a whole.

        Raises:
            CohortError: too many files cannot be read, or no class fits a label.
            DataError: an array or a column is not there.
        """
        blocks, lost = self._all_blocks()
        yield from lost
        if not blocks:
            return
        index = joined(_array_index(blocks), self._data, self._folder)
        selection = select(index, self._study)
        self._notes = selection.notes
        yield from selection.set_aside
        static = read_static(index, self._data)
        patients = patient_of_rows(index, self._data)
        shares = Containers(self._data.unreadable_share, kind="recordings")
        examples = iter(selection.examples)
        pending = next(examples, None)
        start = 0
        for block in blocks:
            stop = start + len(block)
            chosen = []
            while pending is not None and pending.row < stop:
                chosen.append(pending)
                pending = next(examples, None)
            usual = _Usual(self._data, patients[start:stop])
            for found in self._of_block(block, start, chosen, static, usual):
                yield from found
                shares.add(found)
            start = stop
        shares.require()

    def _all_blocks(self) -> tuple[list[_Block], list[SetAside]]:
        """The arrays of all files that can be read, and the files that cannot."""
        blocks: list[_Block] = []
        lost: list[SetAside] = []
        examples: list[int] = []
        for path in self._files:
            try:
                found = self._blocks(path)
            except UnreadableError as error:
                key = relative(self._folder, path)
                lost.append(SetAside(key=key, site=None, reason=str(error)))
                continue
            blocks += found
            examples.append(sum(len(block) for block in found))
        share = self._data.unreadable_share
        require_containers(lost, examples, share=share, kind="npz files")
        return blocks, lost

    def _blocks(self, path: Path) -> list[_Block]:
        """The arrays of one file that hold examples, each with its columns."""
        origin = relative(self._folder, path)
        star = re.compile(re.escape(self._pattern).replace(r"\*", "(.*)"))
        with opened(path) as file:
            found = [match for name in file.files if (match := star.fullmatch(name))]
            if not found:
                raise DataError(
                    f"{origin}: no array matches {self._pattern!r}; "
                    f"the arrays are {', '.join(file.files)}."
                )
            return [self._block(file, path, match) for match in found]

    def _block(self, file: "np.lib.npyio.NpzFile", path: Path, match: re.Match[str]) -> _Block:
        origin = relative(self._folder, path)
        columns = self._columns(file, origin, "".join(match.groups()))
        main = match.group(0)
        return _Block(
            path=path,
            origin=origin,
            main=main,
            columns=columns,
            names=tuple(file.files),
            rows=0 if columns else len(np.atleast_1d(file[main])),
        )

    def _columns(self, file: "np.lib.npyio.NpzFile", origin: str, star: str) -> dict[str, Cells]:
        columns = {}
        for name in columns_read(self._data):
            place = name.replace("*", star)
            if place in file.files and _is_column(array := file[place]):
                columns[name] = _texts(array)
        if len({len(cells) for cells in columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(cells)}" for name, cells in columns.items())
            raise DataError(f"{origin}: the arrays differ in length ({lengths}).")
        return columns

    def _of_block(
        self,
        block: _Block,
        start: int,
        examples: Sequence[Example],
        static: Static | None,
        usual: "_Usual",
    ) -> Iterator[Sequence[RawRecord | SetAside]]:
        """What each row of a block gives."""
        if not examples:
            return
        try:
            array = _main_array(block)
        except UnreadableError as error:
            yield from ([example.set_aside(str(error))] for example in examples)
            return
        medians = usual.of(array)
        for example in examples:
            row = example.row - start
            median = None if medians is None else medians[row]
            yield self._examples(example, array[row], static, median)

    def _examples(
        self,
        example: Example,
        row: NDArray[Any],
        static: Static | None,
        median: NDArray[Any] | None,
    ) -> list[RawRecord | SetAside]:
        data = self._data
        try:
            beside = None if static is None else static.of(example.row)
            main = self._example(row)
            if median is not None:
                main = np.concatenate([main, self._example(median)])
            readings: tuple[Reading, ...] = (Reading(main=main),)
            if isinstance(data, SignalsData):
                readings = cut(main, data.sampling_rate, data.windows)
        except UnreadableError as error:
            return [example.set_aside(str(error))]
        return [
            example.record(one.main, beside, part=one.part, sampling_rate=one.sampling_rate)
            for one in readings
        ]


class _Usual:
    """What is usual for the patients of a block's rows, if the study asks for it."""

    def __init__(self, data: ImagesData | SignalsData, patients: Sequence[str]) -> None:
        self._wanted = isinstance(data, SignalsData) and data.patient_median
        self._patients = patients

    def of(self, array: NDArray[Any]) -> NDArray[np.float32] | None:
        """For each row [n, ...] of the block the median over its patient's rows there."""
        if not self._wanted:
            return None
        return median_signals(array.astype(np.float32), self._patients)


def _array_index(blocks: list[_Block]) -> Index:
    """The blocks one below the other; a column that one of them lacks is left to the joins."""
    names = [name for name in blocks[0].columns if all(name in b.columns for b in blocks)]
    positions = [f"{b.origin}:{b.main}:{row}" for b in blocks for row in range(len(b))]
    origins = [b.origin for b in blocks for _ in range(len(b))]
    return Index(
        columns={name: [cell for b in blocks for cell in b.columns[name]] for name in names},
        known=tuple(dict.fromkeys(name for b in blocks for name in b.names)),
        origins=origins,
        positions=positions,
        identities=positions,
        paths=origins,
        files=tuple(dict.fromkeys(b.origin for b in blocks)),
    )


def _main_array(block: _Block) -> NDArray[Any]:
    """The examples of a block [n, ...].

    Raises:
        UnreadableError: the file is damaged, or there are more or fewer than the columns say.
    """
    with opened(block.path) as file:
        array: NDArray[Any] = file[block.main]
    if len(array) != len(block):
        raise UnreadableError(f"array {block.main} and the columns differ in length")
    return array
