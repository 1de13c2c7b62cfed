"""`source = "wfdb"`: WFDB records, whole or beat by beat. C = leads, T = samples in time.

Format: WFDB Applications Guide (Moody), header(5), signal(5), annot(5).
"""

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround_client.sources.containers import Containers, require_containers
from wardround_client.sources.examples import (
    Example,
    fulfilling,
    select,
    site_of_rows,
)
from wardround_client.sources.files import (
    data_folder,
    file_fault,
    fingerprint,
    inside,
    matching,
    relative,
    walk,
)
from wardround_client.sources.index import Cells, Index, join_files, table_index
from wardround_client.sources.records import RawRecord, Reading, SetAside
from wardround_client.sources.static import Static, read_static
from wardround_client.sources.windows import cut
from wardround_shared.errors import UnreadableError
from wardround_shared.study import Study, WfdbData

# Codes that mark a beat (WFDB Applications Guide, annotation codes); all others mark rhythm,
# noise or waves, and are no beat.
_BEATS = frozenset("NLRBAaJSVrFejnE/fQ?")

OF_BEATS = ("symbol", "rr_prev", "rr_next")
"""Columns that come with annotated beats."""


@dataclass(frozen=True, kw_only=True)
class _Signal:
    """Physical values float32 [C, T] at `rate` Hz."""

    values: NDArray[np.float32]
    rate: float


class WfdbSource:
    """WFDB records named in a table, relative to `folder`."""

    def __init__(self, study: Study, data: WfdbData, folder: Path) -> None:
        self._study, self._data, self._folder = study, data, folder
        self._root = data_folder(folder, data.folder)
        self._tables = matching(folder, data.table, "data.table")
        self._joins = join_files(data, folder)
        self._notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Hash over names, sizes and times of tables and records."""
        return fingerprint(self._folder, (*self._tables, *self._joins, *walk(self._root)))

    def notes(self) -> tuple[str, ...]:
        """What a person should know, complete once `records` is exhausted."""
        return self._notes

    def records(self) -> Iterator[RawRecord | SetAside]:
        """Every record of the table, or every window or annotated beat of it.

        Raises:
            CohortError: too many records with several examples cannot be read, or no class fits a
                label.
            DataError: a column is not there.
        """
        index = table_index(self._data, self._folder, self._tables)
        cells = index.column(self._data.record)
        index = dataclasses.replace(index, identities=cells, paths=cells)
        unlisted = self._unlisted(cells)
        yield from self.records_of(index)
        self._notes = (*self._notes, *unlisted)

    def records_of(self, index: Index) -> Iterator[RawRecord | SetAside]:
        """The same for rows that are there already; raises what `records` does."""
        samples: NDArray[np.int64] | None = None
        if self._data.annotator is not None:
            index, samples, unreadable = self._beats(index, self._data.annotator)
            yield from unreadable
        selection = select(index, self._study)
        self._notes = selection.notes
        yield from selection.set_aside
        static = read_static(index, self._data)
        reader = _Reader(self._data.leads)
        cells = index.column(self._data.record)
        beats = None if samples is None else _Beats(self._data, cells, samples)
        shares = Containers(self._data.unreadable_share, kind="records")
        for example in selection.examples:
            found = self._examples(example, cells[example.row], beats, static, reader)
            yield from found
            if beats is None:
                shares.add(found)
        shares.require()

    def _examples(
        self,
        example: Example,
        cell: str,
        beats: "_Beats | None",
        static: Static | None,
        reader: "_Reader",
    ) -> list[RawRecord | SetAside]:
        try:
            beside = None if static is None else static.of(example.row)
            signal = reader.read(inside(self._root, cell))
            if beats is None:
                readings = cut(signal.values, signal.rate, self._data.windows)
            else:
                window = beats.window(example.row, signal)
                readings = (Reading(main=window, sampling_rate=signal.rate),)
        except UnreadableError as error:
            return [example.set_aside(str(error))]
        return [
            example.record(one.main, beside, part=one.part, sampling_rate=one.sampling_rate)
            for one in readings
        ]

    def _beats(
        self, index: Index, annotator: str
    ) -> tuple[Index, NDArray[np.int64], list[SetAside]]:
        """One row per beat, with the columns symbol, rr_prev and rr_next (seconds).

        At a record's ends there is no interval: the cell is empty. Rows that `where` leaves out
        by a column of the table are not opened.

        Raises:
            CohortError: too many records cannot be read.
        """
        there = [column for column in self._data.where if column in index.columns]
        rows, notes = fulfilling(index, self._data, there)
        sites = site_of_rows(index, self._data)
        origin: list[int] = []
        samples: list[int] = []
        columns: dict[str, Cells] = {name: [] for name in OF_BEATS}
        aside: list[SetAside] = []
        found: list[int] = []
        for row in rows:
            try:
                path = inside(self._root, index.column(self._data.record)[row])
                at, symbols, rate = read_beats(path, annotator)
            except UnreadableError as error:
                key = index.positions[row]
                aside.append(SetAside(key=key, site=sites[row] or None, reason=str(error)))
                continue
            found.append(len(at))
            gaps = [f"{gap / rate:.6f}" for gap in np.diff(at)]
            origin += [row] * len(at)
            samples += at
            columns["symbol"] += symbols
            columns["rr_prev"] += ["", *gaps][: len(at)]
            columns["rr_next"] += [*gaps, ""][-len(at) :] if at else []
        share = self._data.unreadable_share
        require_containers(aside, found, share=share, kind="annotated records")
        beats = index.take(origin).having(columns).noting(*notes)
        positions = [f"{key}@{at}" for key, at in zip(beats.positions, samples, strict=True)]
        known = tuple(dict.fromkeys((*index.known, *columns)))
        beats = dataclasses.replace(beats, positions=positions, known=known)
        return beats, np.asarray(samples, dtype=np.int64), aside

    def _unlisted(self, cells: Cells) -> list[str]:
        listed = {self._root / f"{cell}.hea" for cell in cells}
        headers = [path for path in walk(self._root) if path.suffix == ".hea"]
        unlisted = [path for path in headers if path not in listed]
        if not unlisted:
            return []
        place = relative(self._folder, self._root)
        return [f"{place}: {len(unlisted)} WFDB records are in no label table and are left out."]


class _Beats:
    """Windows around annotated beats, with the record's median beat if the study asks for it.

    The median is over all beats of the record, those that `where` leaves out too; the last one is
    kept, since the beats of a record come one after the other.
    """

    def __init__(self, data: WfdbData, cells: Cells, samples: NDArray[np.int64]) -> None:
        self._data, self._cells = data, cells
        self._samples: list[int] = samples.tolist()
        self._of_record: dict[str, list[int]] = {}
        for cell, sample in zip(cells, self._samples, strict=True):
            self._of_record.setdefault(cell, []).append(sample)
        self._last: tuple[str, NDArray[np.float32]] | None = None

    def window(self, row: int, signal: _Signal) -> NDArray[np.float32]:
        """The beat of a row [C, T], or [2 C, T] with the median; `signal` is its record.

        Raises:
            UnreadableError: the window reaches beyond the record.
        """
        window = self._around(signal, self._samples[row])
        if not self._data.patient_median:
            return window
        return np.concatenate([window, self._median(self._cells[row], signal)])

    def _median(self, cell: str, signal: _Signal) -> NDArray[np.float32]:
        if self._last is None or self._last[0] != cell:
            windows = []
            for sample in self._of_record[cell]:
                with suppress(UnreadableError):  # the first and the last may not fit
                    windows.append(self._around(signal, sample))
            self._last = (cell, np.median(np.stack(windows), axis=0))
        return self._last[1]

    def _around(self, signal: _Signal, sample: int) -> NDArray[np.float32]:
        start = sample - round(self._data.before * signal.rate)
        stop = sample + round(self._data.after * signal.rate)
        if start < 0 or stop > signal.values.shape[1]:
            raise UnreadableError("the window around the beat reaches beyond the record")
        return signal.values[:, start:stop]


class _Reader:
    """Reads records and keeps the last one: its beats come one after the other."""

    def __init__(self, leads: tuple[str, ...]) -> None:
        self._leads = leads
        self._last: tuple[Path, _Signal | UnreadableError] | None = None

    def read(self, path: Path) -> _Signal:
        """The record's leads; a record that failed fails again without being opened."""
        if self._last is None or self._last[0] != path:
            self._last = (path, self._open(path))
        signal = self._last[1]
        if isinstance(signal, UnreadableError):
            raise signal
        return signal

    def _open(self, path: Path) -> _Signal | UnreadableError:
        try:
            return read_signal(path, self._leads)
        except UnreadableError as error:
            return error


def read_signal(path: Path, leads: tuple[str, ...]) -> _Signal:
    """The named leads of a record, in this order, in physical units (usually mV).

    Raises:
        UnreadableError: files missing or damaged, a lead is not there, or a sample is invalid.
    """
    record = _read("rdrecord", str(path), channel_names=[*leads])
    values = record.p_signal
    if values is None or not set(leads) <= set(record.sig_name):
        raise UnreadableError("the record lacks a lead that the study names")
    order = [record.sig_name.index(lead) for lead in leads]
    signal = np.ascontiguousarray(values[:, order].T, dtype=np.float32)
    if not np.isfinite(signal).all():
        raise UnreadableError("the record has samples marked as invalid")
    return _Signal(values=signal, rate=float(record.fs))


def read_beats(path: Path, annotator: str) -> tuple[list[int], list[str], float]:
    """Sample numbers and symbols of a record's beats, and its sampling rate in Hz.

    Raises:
        UnreadableError: header or annotations are missing or damaged.
    """
    header = _read("rdheader", str(path))
    annotation = _read("rdann", str(path), annotator)
    pairs = zip(annotation.sample.tolist(), annotation.symbol, strict=True)
    beats = [(at, symbol) for at, symbol in pairs if symbol in _BEATS]
    return [at for at, _ in beats], [symbol for _, symbol in beats], float(header.fs)


def _read(function: str, *arguments: Any, **options: Any) -> Any:
    """Call a reader of the wfdb package; whatever it raises becomes an UnreadableError."""
    with warnings.catch_warnings():
        # The package warns about pandas when it is imported, and quotes headers later on.
        warnings.simplefilter("ignore")
        import wfdb  # noqa: PLC0415 - slow to import

        try:
            return getattr(wfdb, function)(*arguments, **options)
        except OSError as error:
            raise UnreadableError(file_fault(error)) from error
        except Exception as error:  # it may raise anything on a damaged file
            raise UnreadableError("the WFDB files of the record are damaged") from error
