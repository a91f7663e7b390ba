"""Adds corrections to a project, and selects the images to correct next."""

from collections import Counter
from collections.abc import Iterable, Sequence

from labels.images import decode_image
from labels.label_kind import LabelKind, get_label_kind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from server.jobs.sources import SourceError
from server.projects.annotation_validation import check_sizes, validate_annotations
from server.projects.class_lists import (
    OutsideClass,
    check_annotated_classes,
    count_outside,
    describe_outside_class,
    is_outside,
)
from server.projects.deleted_projects import remove_if_deleted
from server.projects.errors import AnnotationProblem, InvalidAnnotationsError
from server.projects.project_files import ProjectFiles
from server.projects.review_queue import ReviewCandidate, get_training_kind, select_candidates
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Correction, CorrectionContent, Project


class CorrectionService:
    """The corrections of all projects."""

    def __init__(self, store: ProjectStore, files: ProjectFiles) -> None:
        self._store, self._files = store, files

    def add_correction(
        self, project: Project, data: bytes, annotations: Sequence[Annotation], *, kind: LabelKind | None = None,
        complete: bool = True, image_name: str = "", author: str = "", size: tuple[int, int] | None = None,
    ) -> Correction:  # fmt: skip
        """Stores an image file and all its annotations of one kind (None: the kind that they have).

        `size`: width and height of the image, if it was decoded already. Raises ImageError, InvalidAnnotationsError,
        and OSError if the file cannot be written.
        """
        size = size or decode_image(data, max_bytes=len(data)).size
        check_sizes(annotations)
        kind, validated = validate_annotations(annotations, size, kind)
        check_annotated_classes(project, kind, validated)
        with remove_if_deleted(self._store, self._files, project):
            sha256 = self._files.get_image_store(project).add_image(data)
            content = CorrectionContent(sha256, kind, *size, validated, complete, image_name, author)
            return self._store.corrections.add_corrections(project, [content])[0]

    def withdraw_correction(self, project: Project, correction_id: int, author: str = "") -> Correction:
        """Takes back a correction: the image counts as not corrected for its kind. Returns the version that says so.

        Runs and backtests that have ended, and runs in the queue, keep the dataset that they were started with. Raises
        NotFoundError and InvalidStateError.
        """
        return self._store.corrections.withdraw_correction(project, correction_id, author)

    def count_outside(self, project: Project) -> list[OutsideClass]:
        """Returns the classes of current corrections that the project does not declare, the most frequent first.

        The corrections keep them; runs and backtests that start leave their annotations out.
        """
        if not project.classes:
            return []
        return count_outside(project, self._store.corrections.list_current(project))

    def check_import(self, project: Project, images: Iterable[LabeledImage]) -> None:
        """Raises InvalidAnnotationsError if a job has objects of classes that the project does not declare."""
        counts = Counter(
            trace.annotation.label
            for image in images
            for trace in image.traced_annotations
            if trace.parent is None and is_outside(project, get_label_kind(trace.annotation), trace.annotation)
        )
        if counts:
            raise InvalidAnnotationsError(
                [
                    AnnotationProblem(None, f"{describe_outside_class(project, name)} ({count} annotations have it)")
                    for name, count in counts.most_common()
                ]
            )

    def import_job(self, project: Project, images: Iterable[LabeledImage], author: str) -> int:
        """Stores the annotations of a job as corrections, without changes. Returns the number of images.

        Raises InvalidAnnotationsError, SourceError for an image that is missing or has changed, and OSError for one
        that cannot be written.
        """
        count = 0
        for image in images:
            by_kind: dict[LabelKind, list[Annotation]] = {}
            for trace in image.traced_annotations:
                if trace.parent is None:  # an answer about a region is not a caption of the image
                    by_kind.setdefault(get_label_kind(trace.annotation), []).append(trace.annotation)
            validated = [validate_annotations(annotations, image.size, kind) for kind, annotations in by_kind.items()]
            if validated:
                try:
                    data = image.read()
                except OSError as error:
                    raise SourceError(f"{image.name} cannot be read: {error}") from error
                with remove_if_deleted(self._store, self._files, project):
                    sha256 = self._files.get_image_store(project).add_image(data)
                    contents = [
                        CorrectionContent(sha256, kind, *image.size, annotations, True, image.name, author)
                        for kind, annotations in validated
                    ]
                    self._store.corrections.add_corrections(project, contents)
                count += 1
        return count

    def select_next(
        self, project: Project, images: Iterable[tuple[int, LabeledImage]], count: int
    ) -> tuple[list[ReviewCandidate], int]:
        """Returns the images of a job to correct next, and the number of images without a correction.

        Corrections of kinds that train no task of the project do not count. `images`: with their positions in the
        job's source.
        """
        contents = [correction.content for correction in self._store.corrections.list_current(project)]
        labels = [annotation.label for content in contents for annotation in content.annotations]
        kinds = {get_training_kind(task) for task in project.tasks}
        corrected = {content.image_sha256 for content in contents if content.label_kind in kinds}
        return select_candidates(images, corrected, labels, project.tasks, count)
