"""The adapters that a server keeps: loaded into its engine, and saved in a folder so that they survive a restart."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from server.engine.adapters.errors import AdapterError
from server.engine.adapters.names import NAME_PATTERN, NAME_RULE
from server.engine.adapters.registry import Adapter
from server.engine.engine import Engine

_OLD_PREFIX = ".old-"  # of an adapter that is being replaced
_TEMPORARY_PREFIX = ".part-"  # of a folder that is being written or removed
logger = logging.getLogger(__name__)


class AdapterStore:
    """Loads adapters into an engine and saves them. Not thread safe.

    `folder`: has one subfolder per adapter, in PEFT's format. None: adapters are only loaded, and not saved.
    """

    def __init__(self, engine: Engine, folder: Path | None) -> None:
        self.engine, self.folder = engine, folder

    def load_all(self) -> None:
        """Loads all saved adapters. Logs and skips broken ones. Creates the folder if it does not exist.

        Raises OSError when the folder itself cannot be used.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        _recover(self.folder)
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(".") or not path.is_dir():
                continue
            try:
                if not NAME_PATTERN.fullmatch(path.name):
                    raise AdapterError(f"{NAME_RULE}; rename it")
                adapter = self.engine.load_adapter(path.name, path)
            except AdapterError as error:
                logger.error("cannot load the adapter %s: %s", path, error)
            except Exception:  # a broken file must not keep the other adapters from being loaded
                logger.exception("cannot load the adapter %s", path)
            else:
                logger.info("loaded the adapter %s: %s bytes", path, f"{adapter.bytes:,}")

    def save(self, name: str, files: Mapping[str, BinaryIO], sha256: str | None = None) -> tuple[Adapter, bool]:
        """Loads and saves an adapter. Returns it, and whether its name is new.

        `files`: by their names in PEFT's format. `sha256`: the expected hash of its weights. Raises AdapterError or
        OSError, and then changes nothing.
        """
        is_new = not self._is_loaded(name)
        with _write_temporary_folder(files, self.folder) as temporary:
            adapter = self.engine.load_adapter(name, temporary, sha256)
            if self.folder is not None:
                try:
                    _replace_folder(temporary, self.folder / name)
                except OSError:
                    self._restore(name, self.folder / name, is_new)
                    raise
        return adapter, is_new

    def delete(self, name: str) -> None:
        """Unloads an adapter and deletes its files. Raises UnknownAdapterError or OSError."""
        if self.folder is not None and self._is_loaded(name) and (saved := self.folder / name).exists():
            trash = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=self.folder))
            try:
                saved.rename(trash / name)
            finally:
                _remove(trash)
        self.engine.unload_adapter(name)

    def _is_loaded(self, name: str) -> bool:
        return any(adapter.name == name for adapter in self.engine.list_adapters())

    def _restore(self, name: str, saved: Path, is_new: bool) -> None:
        """Restores the engine when an adapter was loaded, but cannot be saved."""
        if is_new:
            self.engine.unload_adapter(name)
        else:
            with suppress(AdapterError):
                self.engine.load_adapter(name, saved)


@contextmanager
def _write_temporary_folder(files: Mapping[str, BinaryIO], parent: Path | None) -> Iterator[Path]:
    """Yields a folder with these files. Removes it at the end, unless it was renamed."""
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=parent))
    try:
        for file, source in files.items():
            with (folder / file).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())  # or a crash could keep the rename and lose the content
        yield folder
    finally:
        _remove(folder)


def _replace_folder(source: Path, target: Path) -> None:
    """Renames `source` to `target`. Replaces an old `target` in two steps; `_recover` repairs a crash between them."""
    old = target.with_name(_OLD_PREFIX + target.name)
    _remove(old)
    replaces = target.exists()
    if replaces:
        target.rename(old)
    try:
        source.rename(target)
    except OSError:
        if replaces:
            old.rename(target)
        raise
    _remove(old)


def _recover(folder: Path) -> None:
    """Removes temporary folders after a crash, and restores an adapter whose replacement is missing."""
    for path in list(folder.iterdir()):
        if path.name.startswith(_OLD_PREFIX) and not (target := folder / path.name.removeprefix(_OLD_PREFIX)).exists():
            path.rename(target)
        elif path.name.startswith((_OLD_PREFIX, _TEMPORARY_PREFIX)):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a folder with its content, or a link to one. Does nothing when it does not exist."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
