"""The images of Parquet and Arrow files, as Hugging Face datasets are stored on disks and in buckets."""

import bisect
import posixpath
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from labels.child_environment import make_child_environment
from labels.extras import describe_install
from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error, to_image_error
from server.jobs.sources.listed_files import ListedFiles
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.reading import read_image
from server.jobs.sources.source import (
    MAX_FILE_BYTES,
    AccessCheck,
    ImageSource,
    Reserve,
    SourceError,
    SourceImageError,
    SourceImageFault,
    make_size_error,
)
from server.jobs.sources.table_process import Channel, TableError
from server.store.text import is_url, redact_address

SUFFIXES = (".parquet", ".arrow")
_TIMEOUT = 300.0  # seconds of an answer of the process that reads a table
_PROCESS = Path(__file__).with_name("table_process.py")


class TableSource(ImageSource):
    """The images of tables, one a row, in order.

    An image is named after its path in the table, below the table's name, or after its row number. Parquet is read
    forward: all rows in order need one pass, but going back to an earlier row reads its row group again.
    """

    def __init__(self, files: Sequence[tuple[str, str, int]], is_allowed: AccessCheck | None = None) -> None:
        """`files` are the name, the address and the size in bytes of each table."""
        self._addresses, self._is_allowed = [address for _, address, _ in files], is_allowed
        # Without those of tables whose rows turn out to name files.
        self._stamps = ["" if is_url(address) else addresses.get_path_stamp(address) for address in self._addresses]
        self._files: dict[int, ListedFiles] = {}  # of tables that name files
        self._starts: list[int] = []  # position of each table's first row
        self._lock = threading.Lock()
        self._open: tuple[int, _TableReader] | None = None
        listing = ImageListing()
        try:
            for number, (name, address, size) in enumerate(files):
                self._starts.append(len(listing.names))
                self._list(listing, number, name, address, size)
        except BaseException:
            self.close()
            raise
        super().__init__(listing)

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def get_stamp(self, position: int) -> str:
        return self._stamps[self._get_table(position)]

    def _list(self, listing: ImageListing, number: int, name: str, address: str, size: int) -> None:
        try:
            table = self._open_table(number)
            for row, path in enumerate(table.iter_paths()):
                path = posixpath.basename(path) if path and (path.startswith("/") or is_url(path)) else path
                # The sizes of images are in the column that is not read here, so changes are detected by the file's
                # size.
                listing.add(f"{name}/{path or f'{row:08}{table.suffix}'}", size)
        except TableError as error:
            raise SourceError(f"{redact_address(address)} {error}") from None
        except ImportError as error:
            raise SourceError(f"{name} needs the package pyarrow: {describe_install('jobs-datasets')}") from error
        except SourceError:
            raise
        except Exception as error:
            raise_source_error(address, error)

    def _open_table(self, number: int) -> "_TableReader":
        if self._open is None or self._open[0] != number or not self._open[1].is_alive:
            self.close()
            self._open = number, _TableReader(self._addresses[number], self._is_allowed)
        return self._open[1]

    def _read(self, position: int, reserve: Reserve) -> bytes:
        number = self._get_table(position)
        try:
            with self._lock:
                data, path = self._open_table(number).read_row(position - self._starts[number])
        except TableError as error:
            raise SourceImageError(f"its table {error}", SourceImageFault.TOO_LARGE) from None
        except Exception as error:
            raise to_image_error(error) from error
        if data is None and path:
            self._stamps[number] = ""
            return read_image(self._find_file(number, path), self._is_allowed, reserve)
        if data is None:
            raise SourceImageError("its row has no image", SourceImageFault.MISSING)
        if len(data) > MAX_FILE_BYTES:
            raise make_size_error(len(data))
        reserve(len(data))
        return data

    def _get_table(self, position: int) -> int:
        return bisect.bisect_right(self._starts, position) - 1

    def _find_file(self, number: int, path: str) -> str:
        """Returns the address of an image that a row names by its path or URL. Raises SourceImageError."""
        address, path = self._addresses[number], addresses.strip_file_scheme(path)
        folder = addresses.get_parent(address)
        if is_url(address) or is_url(path):
            return addresses.resolve_target(folder, path)
        files = self._files.setdefault(number, ListedFiles(Path(address), (), "", self._is_allowed, None))
        return files.find_exact(path) or addresses.resolve_target(folder, path)


class _TableReader:
    """A process that reads one table. Methods raise TableError, ImportError and OSError."""

    def __init__(self, address: str, is_allowed: AccessCheck | None) -> None:
        kind = "arrow" if address.endswith(".arrow") else "parquet"
        if kind == "arrow" and is_url(address):
            raise TableError("is an Arrow file, which must be on a local disk; save the dataset as Parquet")
        self._file: BinaryIO = addresses.open_file(address, is_allowed)
        ours, theirs = socket.socketpair()
        ours.settimeout(_TIMEOUT)
        self._channel = Channel(ours)
        environment = make_child_environment(ARROW_DEFAULT_MEMORY_POOL="system", OMP_NUM_THREADS="1")
        # -P: the folder of the program is not searched for modules.
        command = [sys.executable, "-P", str(_PROCESS), str(theirs.fileno())]
        descriptor = None if is_url(address) else self._file.fileno()
        descriptors = [theirs.fileno()] if descriptor is None else [theirs.fileno(), descriptor]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            length = self._file.seek(0, 2)
            self._file.seek(0)
            self._channel.send({"open": kind, "descriptor": descriptor, "length": length})
            self.suffix = str(self._receive()[0]["suffix"])
        except BaseException:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()
        self._file.close()

    def iter_paths(self) -> Iterator[str | None]:
        """Yields the path that each row has for its image."""
        while paths := self._ask({"paths": True})[0]["paths"]:
            for path in paths:
                yield path if isinstance(path, str) else None

    def read_row(self, row: int) -> tuple[bytes | None, str | None]:
        """Returns the bytes of an image, and its path."""
        answer, data = self._ask({"row": row})
        return data if answer["has_bytes"] else None, answer["path"] if isinstance(answer["path"], str) else None

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        self._channel.send(request)
        return self._receive()

    def _receive(self) -> tuple[dict[str, Any], bytes]:
        """Returns the answer of the process. Meanwhile, reads the bytes of the file that it asks for."""
        try:
            answer, data = self._channel.receive()
            while "fetch" in answer:
                self._fetch(*answer["fetch"])
                answer, data = self._channel.receive()
        except (EOFError, ValueError, ConnectionError, TimeoutError, TypeError, KeyError):
            self._process.kill()
            raise TableError(
                f"cannot be read: the process that reads it ended (exit code {self._process.wait()}); it is broken, or "
                "takes too much memory or time"
            ) from None
        if "error" in answer:
            kinds: dict[str, type[Exception]] = {"TableError": TableError, "ImportError": ImportError}
            raise kinds.get(answer["kind"], OSError)(answer["error"])
        return answer, data

    def _fetch(self, offset: int, count: int) -> None:
        try:
            self._file.seek(offset)
            data = self._file.read(min(count, MAX_FILE_BYTES))
        except Exception as error:  # file systems raise the errors of the libraries that they use
            self._channel.send({"error": str(to_image_error(error))})
        else:
            self._channel.send({}, data)


def to_table_name(path: str) -> str:
    """Returns the prefix of the names of a table's images: its path without the suffix."""
    return posixpath.splitext(path)[0]
