"""What `florist tune` and `florist evaluate` read: datasets on a disk, and what a server keeps, `project:NAME` and
`job:ID`, read beside it by its own settings (FLORIST_PROJECTS_FOLDER, FLORIST_JOBS_FOLDER, FLORIST_DATABASE_URL)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from server import settings as settings_

if TYPE_CHECKING:
    from labels.dataset import Dataset
    from labels.labeled_image import LabeledImage
    from server.projects.image_store import ImageStore
    from server.store import JobStore
    from server.store.projects.project_store import ProjectStore

PROJECT, JOB = "project:", "job:"


class Datasets:
    """Called with a name, opens the dataset. Nothing that is a server's is changed; copies of a job's pictures, which
    may lie anywhere, are there as long as this is."""

    def __init__(self) -> None:
        self._copies: list[tempfile.TemporaryDirectory[str]] = []

    def __call__(self, name: str) -> "Dataset":
        """Raises DatasetError."""
        if not name.startswith((PROJECT, JOB)):
            from labels.opening import open_dataset

            return open_dataset(name)
        from labels.dataset import DatasetError
        from server.store import StoreError

        try:
            settings = settings_.load()
            return _corrected(name, settings) if name.startswith(PROJECT) else self._labelled(name, settings)
        except (settings_.SettingsError, StoreError) as error:
            raise DatasetError(f"{name}: {error}") from error
        except OSError as error:
            raise DatasetError(f"{name}: {error.filename}: {error.strerror or error}") from error

    def _labelled(self, name: str, settings: settings_.Settings) -> "Dataset":
        """The labels of a job, as they stand."""
        from labels.dataset import Dataset, DatasetError, UnusableEntry
        from labels.labeled_image import LabeledImage
        from server.jobs.sources import SourceError, addresses, open_source
        from server.projects.annotation_validation import InvalidAnnotationsError
        from server.projects.image_store import ImageStore

        number = name.removeprefix(JOB)
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise DatasetError(f"{name} names no job: write its number, such as {JOB}3")
        self._copies.append(tempfile.TemporaryDirectory(prefix="florist-job-"))
        pictures = ImageStore(Path(self._copies[-1].name))
        examples, unusable = list[LabeledImage](), list[UnusableEntry]()
        with _reading(name, settings) as store:
            job = store.get_job(int(number))
            # What lies in the job's own folder was no picture of it: a server's, or where the command line wrote to.
            besides = Path(job.spec.output)
            if settings.jobs_folder is not None and not besides.is_absolute():
                besides = settings.jobs_folder.absolute()
            try:
                source = open_source(job.spec.source, besides=besides)
            except SourceError as error:
                raise DatasetError(f"{name}: {error}") from error
            with source:
                if source.fingerprint != job.spec.fingerprint:
                    raise DatasetError(
                        f"{name}: {addresses.shown(job.spec.source)} does not hold the same pictures as when the job "
                        "began; give them back, or label them anew"
                    )
                for picture in store.iter_images(job, lambda position: source[position].read()):
                    try:
                        examples.append(_example(picture, f"{name}, {picture.name}", pictures))
                    except (InvalidAnnotationsError, OSError) as error:
                        unusable.append(UnusableEntry(f"{name}, {picture.name}", str(error)))
        if not examples:
            raise DatasetError(f"{name} has labelled nothing that can be taught: {unusable[0] if unusable else 'yet'}")
        return Dataset(tuple(examples), tuple(unusable))


def _corrected(name: str, settings: settings_.Settings) -> "Dataset":
    """What is corrected in a project; it holds out what its server holds out."""
    from labels.dataset import Dataset, DatasetError
    from server.projects import project_dataset
    from server.projects.image_store import ImageStore

    with projects_of(name, settings) as (kept, folder):
        projects = {project.name: project for project in kept.projects()}
        if (project := projects.get(name.removeprefix(PROJECT))) is None:
            raise DatasetError(f"there is no {name}; there are: {', '.join(sorted(projects)) or 'none'}")
        pictures = ImageStore(folder / project.folder / "pictures")
        found = project_dataset.of(project, kept.newest(project), pictures)
    if not (examples := (*found.train, *found.held)):
        raise DatasetError(f"nothing is corrected in {name} yet")
    return Dataset(examples, holdout=frozenset(example.name for example in found.held))


@contextmanager
def projects_of(what: str, settings: settings_.Settings) -> "Iterator[tuple[ProjectStore, Path]]":
    """A server's projects and the folder of theirs, beside it; `what` is read from them. Raises DatasetError,
    StoreError and OSError."""
    from labels.dataset import DatasetError
    from server.store.projects.project_store import ProjectStore

    if (folder := settings.projects_folder) is None:
        raise DatasetError(
            f"{what} is read from a server's folders: set {settings_.variable('projects_folder')} and "
            f"{settings_.variable('jobs_folder')} (and {settings_.variable('database_url')}) as it has them"
        )
    with _reading(what, settings) as store:
        yield ProjectStore(store, (folder / "home").read_text().strip()), folder.absolute()


@contextmanager
def _reading(name: str, settings: settings_.Settings) -> "Iterator[JobStore]":
    """The database of a server's jobs, beside whoever writes it."""
    from labels.dataset import DatasetError
    from server.store import JobStore, file_url

    if settings.jobs_folder is None and settings.database_url is None:
        raise DatasetError(
            f"{name} is read from a server's database: set {settings_.variable('jobs_folder')} or "
            f"{settings_.variable('database_url')} as it has them"
        )
    folder = (settings.jobs_folder or Path()).absolute()
    with JobStore(settings.database_url or file_url(folder / "florist.db"), read_only=True) as store:
        yield store


def _example(picture: "LabeledImage", source: str, pictures: "ImageStore") -> "LabeledImage":
    """A picture with what a job said of all of it: captions of regions are no captions of the picture. Raises OSError
    and InvalidLabels."""
    from labels.image_files import ImageFile
    from labels.label_kind import LabelKind
    from labels.labeled_image import LabeledImage
    from server.projects.annotation_validation import checked, kind_of

    said = [label.annotation for label in picture.traces if label.parent is None]
    if not said:
        raise OSError("nothing was found on it")
    size = picture.width, picture.height
    kinds = list(dict.fromkeys(map(kind_of, said)))
    notes = [note for kind in kinds for note in checked([n for n in said if kind_of(n) is kind], size, kind)[1]]
    if (kept := pictures.keep(picture.read())) != picture.sha256:
        raise OSError("its file is another than the job labelled")
    opened = ImageFile(pictures.path(kept))
    return LabeledImage(picture.name, source, *size, tuple(notes), opened, frozenset(kinds) - {LabelKind.CAPTIONS})
