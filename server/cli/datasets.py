"""Opens the datasets that commands name: files, and the projects and jobs of a server.

`project:NAME` and `job:ID` are read with the server's settings (FLORIST_PROJECTS_FOLDER, FLORIST_JOBS_FOLDER,
FLORIST_DATABASE_URL), also while the server runs. Its database and files are only read.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from server.settings import Settings, SettingsError, get_variable_name, load_settings

if TYPE_CHECKING:
    from labels.dataset import Dataset, UnusableEntry
    from labels.label_kind import LabelKind
    from labels.labeled_image import LabeledImage, TracedAnnotation
    from server.projects.image_store import ImageStore
    from server.projects.project_files import ProjectFiles
    from server.store.jobs.job_store import JobStore
    from server.store.projects.project_store import ProjectStore

PROJECT_PREFIX, JOB_PREFIX = "project:", "job:"


class DatasetOpener:
    """A callable that opens a dataset by its name. The images of a job are copied, and deleted with the opener."""

    def __init__(self) -> None:
        self._copies: list[tempfile.TemporaryDirectory[str]] = []

    def __call__(self, name: str) -> "Dataset":
        """Opens a dataset. Raises DatasetError."""
        if not name.startswith((PROJECT_PREFIX, JOB_PREFIX)):
            from labels.opening import open_dataset

            return open_dataset(name)
        from labels.dataset import DatasetError
        from server.store import StoreError

        try:
            settings = load_settings()
            if name.startswith(PROJECT_PREFIX):
                return _open_project(name, settings)
            return self._open_job(name, settings)
        except (SettingsError, StoreError) as error:
            raise DatasetError(f"{name}: {error}") from error
        except OSError as error:
            raise DatasetError(f"{name}: {error.filename}: {error.strerror or error}") from error

    def _open_job(self, name: str, settings: Settings) -> "Dataset":
        """Returns the annotations of a job: one for each object."""
        from labels.dataset import Dataset, DatasetError, UnusableEntry
        from labels.labeled_image import LabeledImage
        from server.jobs.job_recipe import get_job_recipe
        from server.jobs.object_view import ObjectView
        from server.jobs.recipes.problems import RecipeError
        from server.jobs.sources import ImageSource, SourceError, open_source
        from server.jobs.sources.uploads import UPLOAD_PREFIX
        from server.jobs.uploads import UPLOADS_FOLDER, open_upload
        from server.projects.errors import InvalidAnnotationsError
        from server.projects.image_store import ImageStore

        number = name.removeprefix(JOB_PREFIX)
        if not (number.isascii() and number.isdigit() and len(number) < 16):
            raise DatasetError(f"{name} is not a job: write its number, such as {JOB_PREFIX}3")
        self._copies.append(tempfile.TemporaryDirectory(prefix="florist-job-"))
        store = ImageStore(Path(self._copies[-1].name))
        images, unusable = list[LabeledImage](), list[UnusableEntry]()
        with _open_database(name, settings) as job_store:
            job = job_store.get_job(int(number))
            # Files in the job's own folder, such as drawings, are not images of its source.
            output = Path(job.spec.output)
            if settings.jobs_folder is not None and not output.is_absolute():
                output = settings.jobs_folder.absolute()
            try:
                view = ObjectView(get_job_recipe(job))
                if job.spec.source.startswith(UPLOAD_PREFIX):
                    source: ImageSource = open_upload(output / UPLOADS_FOLDER, job.spec.source)
                else:
                    source = open_source(job.spec.source, exclude=output)
            except (RecipeError, SourceError) as error:
                raise DatasetError(f"{name}: {error}") from error
            with source:
                for image in view.iter_images(job_store.iter_images(job, source.read)):
                    unusable += _list_region_labels(image, f"{name}, {image.name}")
                    try:
                        images.append(_copy_image(image, f"{name}, {image.name}", store))
                    except (InvalidAnnotationsError, OSError) as error:
                        unusable.append(UnusableEntry(f"{name}, {image.name}", str(error)))
        if not images:
            reason = unusable[0] if unusable else "it has not labeled any image yet"
            raise DatasetError(f"{name} has no annotations to train on: {reason}")
        return Dataset(tuple(images), tuple(unusable))


def _open_project(name: str, settings: Settings) -> "Dataset":
    """Returns the current corrections of a project, with the same holdout as in the server."""
    from labels.dataset import Dataset, DatasetError
    from server.projects.project_dataset import build_dataset

    with open_projects(name, settings) as (store, files):
        projects = {project.name: project for project in store.list_projects()}
        if (project := projects.get(name.removeprefix(PROJECT_PREFIX))) is None:
            raise DatasetError(f"there is no {name}; there are: {', '.join(sorted(projects)) or 'none'}")
        corrections = store.corrections.list_current(project)
        dataset = build_dataset(project, corrections, files.get_image_store(project))
    if not (images := (*dataset.train, *dataset.holdout)):
        raise DatasetError(f"{name} has no corrections yet")
    holdout = frozenset(image.name for image in dataset.holdout)
    return Dataset(images, holdout=holdout, class_list=project.class_list)


@contextmanager
def open_projects(name: str, settings: Settings) -> "Iterator[tuple[ProjectStore, ProjectFiles]]":
    """Opens the projects of a server for reading. `name`: what needs them, for messages.

    Raises DatasetError, StoreError and OSError.
    """
    from labels.dataset import DatasetError
    from server.projects.project_files import ProjectFiles
    from server.store.projects.project_store import ProjectStore

    if (folder := settings.projects_folder) is None:
        raise DatasetError(
            f"{name} needs a server's folders: set {get_variable_name('projects_folder')} and "
            f"{get_variable_name('jobs_folder')} (and {get_variable_name('database_url')}) to the server's values"
        )
    with _open_database(name, settings) as job_store:
        files = ProjectFiles(folder.absolute())
        yield ProjectStore(job_store.database, files.read_storage_id()), files


@contextmanager
def _open_database(name: str, settings: Settings) -> "Iterator[JobStore]":
    """Opens the database of a server for reading."""
    from labels.dataset import DatasetError
    from server.store.database import to_file_url
    from server.store.jobs.job_store import JobStore

    if settings.jobs_folder is None and settings.database_url is None:
        raise DatasetError(
            f"{name} needs a server's database: set {get_variable_name('jobs_folder')} or "
            f"{get_variable_name('database_url')} to the server's value"
        )
    folder = (settings.jobs_folder or Path()).absolute()
    with JobStore(settings.database_url or to_file_url(folder / "florist.db"), read_only=True) as job_store:
        yield job_store


def _list_region_labels(image: "LabeledImage", source: str) -> "list[UnusableEntry]":
    """Returns an entry for each step whose labels are about regions, not about the image: those of `for_each`."""
    from labels.dataset import UnusableEntry

    steps = Counter(trace.step for trace in image.traced_annotations if trace.parent is not None)
    return [
        UnusableEntry(source, f"{count} labels of the step {step} are about regions (for_each), not the whole image")
        for step, count in steps.items()
    ]


def _copy_image(image: "LabeledImage", source: str, store: "ImageStore") -> "LabeledImage":
    """Copies an image and returns it with the job's annotations of the whole image, not of regions.

    Raises OSError and InvalidAnnotationsError.
    """
    from labels.image_files import ImageFile
    from labels.label_kind import LabelKind, get_label_kind

    own = [trace for trace in image.traced_annotations if trace.parent is None]
    if not own and not image.regions:
        raise OSError("it has no annotations")
    by_kind: dict[LabelKind, list[TracedAnnotation]] = {}
    for trace in own:
        by_kind.setdefault(get_label_kind(trace.annotation), []).append(trace)
    validated = [trace for kind, traces in by_kind.items() for trace in _validate(traces, image.size, kind)]
    file = ImageFile(store.get_path(store.add_image(image.read())))
    return replace(
        image.with_traces(*validated),
        source=source,
        open=file,
        complete=frozenset(by_kind) - {LabelKind.CAPTIONS},
        answers=(),
    )


def _validate(traces: "list[TracedAnnotation]", size: tuple[int, int], kind: "LabelKind") -> "list[TracedAnnotation]":
    """Returns annotations of one kind as training uses them, with their attributes. Raises InvalidAnnotationsError."""
    from labels.labeled_image import TracedAnnotation
    from server.projects.annotation_validation import validate_annotations

    _, validated = validate_annotations([trace.annotation for trace in traces], size, kind)
    pairs = zip(validated, traces, strict=True)
    return [TracedAnnotation(annotation, attributes=trace.attributes) for annotation, trace in pairs]
