"""Jobs kept in a database: which pictures, how far, and what was said about them. Every change is one transaction.

Several processes on several machines may work on one job: each leases pictures, and only the owner of a lease can end
it. An owner that dies is noticed when its lease runs out, and its pictures are taken again.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from itertools import islice
from typing import Any, Self, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from labels.labeled_image import LabeledImage
from server.jobs.sources import addresses
from server.store import database
from server.store.jobs.job_store.leases import LABELS, Leases, clean
from server.store.jobs.job_store.records import (
    Answer,
    Failure,
    Job,
    JobChanged,
    JobState,
    NotNow,
    Progress,
    UnknownJob,
    Wanted,
)
from server.store.tables import OPEN, AnnotationsRow, ItemRow, JobRow

_ANSWER = AnnotationsRow.picture, AnnotationsRow.width, AnnotationsRow.height, AnnotationsRow.labels
# Asked about every picture, so it is put together once.
_NEWEST = (
    sa.select(*_ANSWER)
    .where(*(getattr(AnnotationsRow, name) == sa.bindparam(name) for name in ("picture", "recipe", "model")))
    .order_by(AnnotationsRow.version.desc())
    .limit(1)
)
_PAGE = 500  # pictures read at a time
_BATCH = 10_000  # rows inserted at a time


class Store:
    """Safe to use from any thread. Methods raise StoreError, and StoreAway where the same call may be made again."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        """Opens the database, and makes or upgrades its tables. `read_only`: as it is, beside whoever writes it; what
        changes anything is then refused by the database."""
        self._engine = database.connect(url, read_only=read_only)
        self._writer = database.writing(self._engine)
        postgres = self._engine.dialect.name == "postgresql"
        self.insert: Callable[..., Any] = postgresql.insert if postgres else sqlite.insert
        # Several machines go by one clock: the database's.
        self._database_clock = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double) if postgres else None

    def close(self) -> None:
        """Gives the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Jobs

    def begin(
        self,
        wanted: Wanted,
        names: Iterable[str],
        difference: Callable[[str, str], Sequence[str]] = lambda old, new: ["the recipe is another"],
    ) -> Job:
        """The output's job: a new one over pictures of these names, in this order, or the one that is there.
        `difference`: two recipes → lines. Raises JobChanged where the one that is there began with something else."""
        if (job := self.of_output(wanted.output)) is None:
            try:
                return self._create(wanted, names)
            except IntegrityError:  # another process was faster
                job = self.of_output(wanted.output)
                assert job is not None
        began, lines = job.wanted, []
        if began.recipe_hash != wanted.recipe_hash:
            lines += [f"recipe: {line}" for line in difference(began.recipe, wanted.recipe)]
        if began.fingerprint != wanted.fingerprint:
            named = dict.fromkeys(addresses.shown(source) for source in (began.source, wanted.source))
            lines.append(f"source: {', now '.join(named)} does not hold the same pictures as then")
        if began.model != wanted.model:
            lines.append(f"model and adapters: of other weights ({began.model[:12]}, now {wanted.model[:12]})")
        if lines:
            raise JobChanged(wanted.output, lines)
        return job

    def job(self, number: int) -> Job:
        """Raises UnknownJob when there is none of this number."""
        if (found := self._jobs(JobRow.id == number)) == []:
            raise UnknownJob(f"there is no job {number}")
        return found[0]

    def of_output(self, output: str) -> Job | None:
        """The job that writes there; None where there is none."""
        return next(iter(self._jobs(JobRow.output == output)), None)

    def jobs(self, after: int = 0, limit: int | None = None, options: str | None = None) -> list[Job]:
        """Those after a number, the oldest first; at most `limit`, and of certain `options`."""
        mine = sa.true() if options is None else JobRow.options == options
        return self._jobs(sa.and_(JobRow.id > after, mine), limit)

    def start(self, job: Job) -> Job:
        """Says that somebody works on it; one that is paused or has ended stays so."""
        self._turn(job, JobState.RUNNING, (JobState.QUEUED, JobState.RUNNING))
        return self.job(job.id)

    def pause(self, job: Job) -> Job:
        """Whoever works on it ends the pictures in hand and stops."""
        return self._ask(job, JobState.PAUSED, (JobState.QUEUED, JobState.RUNNING), "paused")

    def resume(self, job: Job) -> Job:
        """Queued again."""
        return self._ask(job, JobState.QUEUED, (JobState.PAUSED, JobState.FAILED), "resumed")

    def cancel(self, job: Job) -> Job:
        """For good: whoever works on it drops what is in hand. What was labelled stays."""
        states = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.FAILED)
        return self._ask(job, JobState.CANCELLED, states, "cancelled")

    def finish(self, job: Job) -> Job:
        """Done, if it runs and no picture is open."""
        rest = sa.select(ItemRow.position).where(ItemRow.job_id == job.id, ItemRow.state.in_(OPEN)).exists()
        self._turn(job, JobState.DONE, (JobState.RUNNING,), ~rest)
        return self.job(job.id)

    def give_up(self, job: Job, reason: str) -> None:
        """Failed as a whole, not for a picture's sake."""
        self._turn(job, JobState.FAILED, (JobState.QUEUED, JobState.RUNNING), reason=reason)

    def retry(self, job: Job, kind: str | None = None) -> int:
        """Opens the pictures that failed, or those of a kind, once more; how many. A job that was done is queued."""
        with self.writing() as connection:
            of_kind = sa.true() if kind is None else ItemRow.kind == kind
            found = connection.execute(
                sa.update(ItemRow)
                .where(ItemRow.job_id == job.id, ItemRow.state == "failed", of_kind)
                .values(state="waiting", tries=0, deaths=0, kind="", reason="", due=0.0)
            )
            if found.rowcount:
                connection.execute(
                    sa.update(JobRow)
                    .where(JobRow.id == job.id, JobRow.state == JobState.DONE)
                    .values(state=JobState.QUEUED, ended=None)
                )
            return found.rowcount

    # Pictures

    def leases(self, job: Job, owner: str, seconds: float) -> Leases:
        """For a process that works on the job; `owner` is a name that no other has."""
        return Leases(self, job, owner, seconds)

    def reclaim(self, job: Job) -> None:
        """Takes all owners for dead. Only for who knows that nobody else works on the job."""
        with self.writing() as connection:
            leased = sa.update(ItemRow).where(ItemRow.job_id == job.id, ItemRow.state == "leased")
            connection.execute(leased.values(due=0.0))

    def answer(self, job: Job, sha256: str) -> Answer | None:
        """What the job's recipe and model said about a picture, the newest version; None where they were not asked."""
        wanted = {"picture": sha256, "recipe": job.wanted.recipe_hash, "model": job.wanted.model}
        with self.reading() as connection:
            row = connection.execute(_NEWEST, wanted).first()
        return None if row is None else _answer(row)

    def progress(self, job: Job) -> Progress:
        """How far it is."""
        with self.reading() as connection:
            rows = connection.execute(
                sa.select(ItemRow.state, ItemRow.kind, sa.func.count())
                .where(ItemRow.job_id == job.id)
                .group_by(ItemRow.state, ItemRow.kind)
                .order_by(ItemRow.kind)
            ).all()
        counts = {state: sum(row[2] for row in rows if row[0] == state) for state in {row[0] for row in rows}}
        return Progress(**counts, kinds={row[1]: row[2] for row in rows if row[0] == "failed"})

    def owners(self, job: Job) -> int:
        """How many have pictures of it in hand; who has died counts until its leases lapse."""
        held = ItemRow.job_id == job.id, ItemRow.state == "leased", ItemRow.due > self.now()
        with self.reading() as connection:
            return connection.scalar(sa.select(sa.func.count(sa.distinct(ItemRow.owner))).where(*held)) or 0

    def failures(self, job: Job, after: int = -1) -> Iterator[Failure]:
        """Those set aside after a position, in order."""
        columns = ItemRow.position, ItemRow.kind, ItemRow.reason, ItemRow.name, ItemRow.tries
        for row in self._pages(job, "failed", after, sa.select(*columns)):
            yield Failure(row.position, row.kind, row.reason, final=True, name=row.name, tries=row.tries)

    def labelled(
        self, job: Job, read: Callable[[int], bytes] = lambda position: b"", after: int = -1
    ) -> Iterator[LabeledImage]:
        """The pictures that are done after a position, in order, few in memory at a time. `read`: position → the
        file's bytes."""
        return (picture for _, picture in self.placed(job, read, after))

    def placed(
        self, job: Job, read: Callable[[int], bytes] = lambda position: b"", after: int = -1
    ) -> Iterator[tuple[int, LabeledImage]]:
        """As `labelled`, each with its position."""
        joined = sa.select(ItemRow.position, ItemRow.name, *_ANSWER).join(AnnotationsRow)
        for row in self._pages(job, "done", after, joined):
            said, reader = _answer(row), partial(read, row.position)
            yield row.position, LabeledImage(row.name, said.sha256, said.width, said.height, said.labels, reader)

    # For all that is kept here

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that changes nothing."""
        with database.plain_errors(self._engine), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction, for those who keep more in the same database."""
        with database.plain_errors(self._engine), self._writer.begin() as connection:
            yield connection

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since 1970 by the clock that all owners share."""
        return sa.literal(time.time()) if self._database_clock is None else self._database_clock

    # Inside

    def _create(self, wanted: Wanted, names: Iterable[str]) -> Job:
        """One transaction, so that a job has all its pictures or is not there."""
        with self.writing() as connection:
            number = connection.scalar(
                sa.insert(JobRow)
                .values(
                    output=wanted.output, recipe=wanted.recipe, recipe_hash=wanted.recipe_hash, source=wanted.source,
                    fingerprint=wanted.fingerprint, model=wanted.model, options=wanted.options, state=JobState.QUEUED,
                    reason="", created=time.time(),
                )
                .returning(JobRow.id)
            )  # fmt: skip
            rows = ({"job_id": number, "position": i, "name": clean(name)} for i, name in enumerate(names))
            while batch := list(islice(rows, _BATCH)):
                connection.execute(sa.insert(ItemRow), batch)
        return self.job(cast(int, number))

    def _jobs(self, where: sa.ColumnElement[bool], limit: int | None = None) -> list[Job]:
        found = sa.select(JobRow.__table__).where(where).order_by(JobRow.id).limit(limit)
        with self.reading() as connection:
            rows = connection.execute(found).mappings().all()
        wanted = [Wanted(**{field.name: row[field.name] for field in fields(Wanted)}) for row in rows]
        return [
            Job(row["id"], w, JobState(row["state"]), row["reason"], row["created"], row["started"], row["ended"])
            for row, w in zip(rows, wanted, strict=True)
        ]

    def _turn(
        self, job: Job, to: JobState, states: Sequence[JobState], *where: sa.ColumnElement[bool], reason: str = ""
    ) -> bool:
        """Changes the job's state, if it is one of `states`."""
        values: dict[str, Any] = {"state": to, "reason": clean(reason)}
        if to is JobState.RUNNING:
            values["started"] = sa.func.coalesce(JobRow.started, time.time())
        values["ended"] = time.time() if to in (JobState.DONE, JobState.CANCELLED, JobState.FAILED) else None
        with self.writing() as connection:
            change = sa.update(JobRow).where(JobRow.id == job.id, JobRow.state.in_(states), *where)
            return bool(connection.execute(change.values(**values)).rowcount)

    def _ask(self, job: Job, to: JobState, states: Sequence[JobState], done: str) -> Job:
        if not self._turn(job, to, states) and self.job(job.id).state is not to:
            state = self.job(job.id).state
            raise NotNow(f"job {job.id} is {state}; what is {' or '.join(states)} can be {done}")
        return self.job(job.id)

    def _pages(self, job: Job, state: str, after: int, query: Any) -> Iterator[sa.Row[Any]]:
        """Rows of a job's pictures in a state, in order; each page is read in a transaction of its own."""
        query = query.where(ItemRow.job_id == job.id, ItemRow.state == state).order_by(ItemRow.position).limit(_PAGE)
        while True:
            with self.reading() as connection:
                rows = connection.execute(query.where(ItemRow.position > after)).all()
            yield from rows
            if len(rows) < _PAGE:
                return
            after = rows[-1].position


def _answer(row: Any) -> Answer:
    return Answer(row.picture, row.width, row.height, LABELS.validate_json(row.labels))
