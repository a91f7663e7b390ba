"""Changes of a job: images that the source got, lost or changed, another recipe, another model.

Images are identified by their names: the positions of a source change when it gets or loses one. A change is one
transaction, and no worker leases an image meanwhile. Annotations are never removed: an image that is labeled again
keeps those that it has until the new ones are complete, and annotations of the same file, recipe and model are used
again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from statistics import median
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from server.store.jobs.records import MAX_NAMES, ImageState, InvalidStateError, Job, JobMismatchError, JobSpec, JobState
from server.store.tables import UNFINISHED_STATES, AnnotationsRow, JobImageRow, JobRow
from server.store.text import redact_address

_BATCH = 10_000  # rows at a time
_RATE_IMAGES = 1000  # from which the rate is estimated
_MIN_SECONDS = 0.5  # from which the rate is computed
_SAME_TIME = 0.01  # seconds between images that are stored together
_MIN_PAUSE, _PAUSE_FACTOR = 5.0, 20  # seconds, or times the usual gap, without an image: the job was not running
_MAX_SECONDS = 60.0  # for one image


class SourceListing(Protocol):
    """The images of a source. `ImageSource` has this."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def positions(self) -> Mapping[str, int]: ...

    def get_stamp(self, position: int) -> str: ...


@dataclass(frozen=True, slots=True)
class ImageChanges:
    """The images of a job that have changed.

    Attributes:
        kept: The number of images whose labels stay.
        unchecked: How many of these are kept although the source does not say whether their files have changed.
        added: The number of images that are new in the source, or are in it again.
        compared: The number of images that are read again, as their files may have changed.
        removed: The number of images that are no longer in the source.
        relabeled: The number of images that are labeled again, for another recipe or model.
        reviewed: The number of images whose labels are reviewed by other thresholds; no model is asked.
        names: The first names of added, compared and removed images.
    """

    kept: int = 0
    unchecked: int = 0
    added: int = 0
    compared: int = 0
    removed: int = 0
    relabeled: int = 0
    reviewed: int = 0
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)


def list_differences(old: JobSpec, new: JobSpec, compare_recipes: Callable[[str, str], Sequence[str]]) -> list[str]:
    """Returns what differs in the recipe and in the model, one a line."""
    lines: list[str] = []
    if old.recipe_hash != new.recipe_hash:
        lines += [f"recipe: {line}" for line in compare_recipes(old.recipe, new.recipe)]
    if old.model_hash != new.model_hash:
        lines.append(f"model and adapters: the weights have changed ({old.model_hash[:12]}, now {new.model_hash[:12]})")
    return lines


def lock_job(connection: sa.Connection, job: Job) -> sa.Row[Any]:
    """Returns the row of a job. Waits for transactions in which workers lease images; new ones wait for this one."""
    return connection.execute(sa.select(JobRow.__table__).where(JobRow.id == job.id).with_for_update()).one()


def update_job(
    connection: sa.Connection, job: Job, spec: JobSpec, source: SourceListing, *, may_remove: bool, relabel: bool
) -> ImageChanges:
    """Changes a job as JobStore.update_job says, in the transaction of the connection."""
    row = lock_job(connection, job)
    if row.state == JobState.CANCELLED:
        raise InvalidStateError(f"job {job.id} is cancelled; start another one with its source and recipe")
    is_other = row.recipe_hash != spec.recipe_hash or row.model_hash != spec.model_hash
    is_listed_anew = row.fingerprint != spec.fingerprint
    has_ended = row.state not in (JobState.QUEUED, JobState.RUNNING)
    if not (is_other or relabel or is_listed_anew or has_ended):
        is_done = JobImageRow.job_id == job.id, JobImageRow.state == ImageState.DONE
        return ImageChanges(kept=connection.scalar(sa.select(sa.func.count()).where(*is_done)) or 0)
    update = _ImageUpdate(connection, job.id, source, relabel=is_other or relabel, is_listed_anew=is_listed_anew)
    changes = update.run()
    if changes.removed and not may_remove:
        old, new = redact_address(row.source), redact_address(spec.source)
        missing = ", ".join(changes.names["removed"][:3]) + (", …" if changes.removed > 3 else "")
        line = f"source: was {old}, is {new}, which does not have {changes.removed:,} of the job's images: {missing}"
        raise JobMismatchError(spec.output, [line], job, spec)
    values: dict[str, Any] = {
        "recipe": spec.recipe, "recipe_hash": spec.recipe_hash, "model_hash": spec.model_hash, "source": spec.source,
        "fingerprint": spec.fingerprint,
    }  # fmt: skip
    unfinished = sa.select(JobImageRow.position).where(
        JobImageRow.job_id == job.id, JobImageRow.state.in_(UNFINISHED_STATES)
    )
    if row.state in (JobState.DONE, JobState.FAILED) and connection.execute(unfinished.limit(1)).first():
        values |= {"state": JobState.QUEUED, "started": None, "ended": None, "reason": ""}
    connection.execute(sa.update(JobRow).where(JobRow.id == job.id).values(**values))
    return changes


class _ImageUpdate:
    """Compares the images of a job with its source, and changes their rows."""

    def __init__(
        self, connection: sa.Connection, job_id: int, source: SourceListing, *, relabel: bool, is_listed_anew: bool
    ) -> None:
        self._connection, self._job_id, self._source = connection, job_id, source
        self._relabel, self._is_listed_anew = relabel, is_listed_anew
        self._counts = dict.fromkeys(("kept", "unchecked", "added", "compared", "removed", "relabeled"), 0)
        self._names: dict[str, list[str]] = {"added": [], "compared": [], "removed": []}

    def run(self) -> ImageChanges:
        known, last = bytearray(len(self._source.names)), -1
        for rows in self._iter_rows():
            waiting: list[int] = []
            removed: list[int] = []
            for row in rows:
                position = self._source.positions.get(row.name)
                if position is None:
                    if row.state != ImageState.REMOVED:
                        self._count("removed", row.name)
                        removed.append(row.position)
                    continue
                known[position] = True
                if self._is_labeled_again(row, position):
                    waiting.append(row.position)
            self._set_state(removed, ImageState.REMOVED)
            self._set_state(waiting, ImageState.WAITING)
            last = rows[-1].position
        new = (name for name, is_known in zip(self._source.names, known, strict=True) if not is_known)
        self._add(new, last + 1)
        return ImageChanges(**self._counts, names={kind: tuple(names) for kind, names in self._names.items()})

    def _is_labeled_again(self, row: Any, position: int) -> bool:
        """Returns whether the image of a row has to be labeled again, and counts it."""
        if row.state == ImageState.REMOVED:
            self._count("added", row.name)
            return True
        if self._relabel:
            self._count("relabeled")
            return True
        if row.state in UNFINISHED_STATES:
            return False
        stamp = self._source.get_stamp(position)
        has_failed, is_known = row.state == ImageState.FAILED, bool(row.stamp and stamp)
        # A list of URLs does not say whether an image has changed. Reading all of them takes long, so they are read
        # only if the list is another one.
        if row.stamp != stamp if has_failed or is_known else self._is_listed_anew:
            self._count("compared", row.name)
            return True
        if not has_failed:  # a failed image stays failed
            self._count("kept")
            if not is_known:
                self._count("unchecked")
        return False

    def _iter_rows(self) -> Iterator[Sequence[Any]]:
        columns = JobImageRow.position, JobImageRow.name, JobImageRow.state, JobImageRow.stamp
        query = sa.select(*columns).where(JobImageRow.job_id == self._job_id).order_by(JobImageRow.position)
        last = -1
        while rows := self._connection.execute(query.where(JobImageRow.position > last).limit(_BATCH)).all():
            yield rows
            last = rows[-1].position

    def _count(self, kind: str, name: str = "") -> None:
        self._counts[kind] += 1
        if kind in self._names and len(self._names[kind]) < MAX_NAMES:
            self._names[kind].append(name)

    def _set_state(self, positions: Sequence[int], state: ImageState) -> None:
        """Changes the state of images, and ends their leases."""
        if positions:
            change = sa.update(JobImageRow).where(
                JobImageRow.job_id == self._job_id, JobImageRow.position.in_(positions)
            )
            change = change.values(
                state=state, attempts=0, crashes=0, failure_kind="", failure_reason="", lease_owner=None,
                available_at=0.0,
            )  # fmt: skip
            self._connection.execute(change)

    def _add(self, names: Iterator[str], first: int) -> None:
        rows = ({"job_id": self._job_id, "position": i, "name": name} for i, name in enumerate(names, first))
        while batch := list(islice(rows, _BATCH)):
            for row in batch:
                self._count("added", str(row["name"]))
            self._connection.execute(sa.insert(JobImageRow), batch)


def estimate_rate(connection: sa.Connection, job: Job) -> float | None:
    """Returns the images per second as JobStore.estimate_rate says."""
    query = sa.select(AnnotationsRow.created).join(JobImageRow).where(JobImageRow.job_id == job.id)
    query = query.order_by(JobImageRow.position.desc()).limit(_RATE_IMAGES)
    times = sorted(connection.scalars(query))
    gaps = [after - before for before, after in pairwise(times)]
    # Images are stored several at a time, so most gaps are almost zero.
    usual = median([gap for gap in gaps if gap > _SAME_TIME] or [0.0])
    working = [gap for gap in gaps if gap < max(_MIN_PAUSE, _PAUSE_FACTOR * usual)]
    if sum(working) > _MIN_SECONDS:
        return len(working) / sum(working)
    # Few images, all stored at about the same time: counts from the start of the job.
    last = [time for time in times if job.started and time > job.started]
    seconds = last[-1] - job.started if last and job.started else 0.0
    return len(last) / seconds if 0 < seconds < _MAX_SECONDS * len(last) else None


def count_labeled(connection: sa.Connection, job: Job, recipe_hash: str, model_hash: str) -> int:
    """Returns the number of images as JobStore.count_labeled says."""
    old, new = aliased(AnnotationsRow), aliased(AnnotationsRow)
    query = (
        sa.select(sa.func.count(sa.distinct(JobImageRow.position)))
        .select_from(JobImageRow)
        .join(old, old.id == JobImageRow.annotations_id)
        .join(new, new.image_sha256 == old.image_sha256)
        .where(
            JobImageRow.job_id == job.id,
            JobImageRow.state != ImageState.REMOVED,
            new.recipe_hash == recipe_hash,
            new.model_hash == model_hash,
        )
    )
    return connection.scalar(query) or 0
