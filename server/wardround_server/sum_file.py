"""`SumStore` on disk: the secure sum under way, and the number of the next secure round."""

from collections.abc import Iterable
from pathlib import Path

from wardround_server import durable
from wardround_server.sum_store import Buffer
from wardround_shared.errors import RunFolderError

SUM = "sum"
NEXT_ROUND = "next-secure-round"


class SumFile:
    """Two files of one folder, each replaced as a whole and on the disk itself on return."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`, which is there and belongs to one run."""
        self._sum = folder / SUM
        self._next_round = folder / NEXT_ROUND

    def save(self, parts: Iterable[Buffer]) -> None:
        """See `SumStore.save`."""

        def write(target: Path) -> None:
            with target.open("wb") as opened:
                for part in parts:
                    opened.write(part)

        _replace(self._sum, write)

    def load(self) -> bytearray | None:
        """See `SumStore.load`.

        Raises:
            RunFolderError: it is there and cannot be read.
        """
        try:
            with self._sum.open("rb", buffering=0) as opened:
                content = bytearray(self._sum.stat().st_size)
                # The system gives at most 2 GiB at once.
                left = memoryview(content)
                while left and (taken := opened.readinto(left)):
                    left = left[taken:]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunFolderError(f"{self._sum}: cannot be read ({error.strerror}).") from error
        if left:
            raise RunFolderError(f"{self._sum}: cannot be read (it became shorter meanwhile).")
        return content

    def clear(self) -> None:
        """See `SumStore.clear`."""
        # Not synced: a sum that comes back after a power cut is of a question that is settled.
        self._sum.unlink(missing_ok=True)

    @property
    def next_round(self) -> int:
        """See `SumStore.next_round`.

        Raises:
            RunFolderError: the file is there and holds no number.
        """
        try:
            text = self._next_round.read_text(encoding="ascii")
        except FileNotFoundError:
            return 1
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self._next_round}: cannot be read ({error}).") from error
        # Whole only with its end: a torn 123 would be 12, a number that sites have taken.
        if not (text.endswith("\n") and text[:-1].isdecimal() and int(text) > 0):
            raise RunFolderError(
                f"{self._next_round}: this is no number of a secure round; write a number there "
                "that is larger than any before it, and a line break."
            )
        return int(text)

    def keep_next_round(self, number: int) -> None:
        """See `SumStore.keep_next_round`."""
        _replace(self._next_round, lambda target: target.write_text(f"{number}\n", "ascii"))


def _replace(file: Path, write: durable.Write) -> None:
    try:
        durable.replace(file, write, durable=True)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written ({error.strerror}).") from error
