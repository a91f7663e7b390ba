"""A job's pictures in one owner's hands: taken in order, kept while it lives, and ended by nobody else."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from labels.labeled_image import TracedAnnotation
from server.store.jobs.job_store.records import Answer, Done, Failure, Item, Job, Wanted
from server.store.tables import AnnotationsRow, ItemRow

if TYPE_CHECKING:
    from server.store.jobs.job_store.job_store import Store

TRIES = 3  # of a picture that another try may help
# Whoever kills us at any moment must not make a good picture look bad: after the first death it is tried alone, and
# only this many deaths tell that it is the picture.
DEATHS = 6
LABELS = TypeAdapter(tuple[TracedAnnotation, ...])


class Leases:
    """What `owner`, a name that no other process has, holds of a job, for `seconds` from the last `take` or `renew`.
    Raises what the store does."""

    def __init__(self, store: "Store", job: Job, owner: str, seconds: float) -> None:
        self._store, self.job, self.owner, self.seconds = store, job, owner, seconds

    def take(self, count: int) -> list[Item]:
        """Up to `count` more pictures, in order, and none with which an owner died."""
        return self._take(count, "waiting", ItemRow.deaths == 0)

    def take_suspect(self) -> Item | None:
        """A picture with which an owner died. Those with which that happened again and again are set aside."""
        return next(iter(self._take(1, "leased") or self._take(1, "waiting", ItemRow.deaths > 0)), None)

    def _take(self, count: int, state: str, *which: sa.ColumnElement[bool]) -> list[Item]:
        with self._store.writing() as connection:
            found = connection.execute(
                sa.select(ItemRow.position, ItemRow.name, ItemRow.tries, ItemRow.deaths, ItemRow.state)
                .where(ItemRow.job_id == self.job.id, ItemRow.state == state, ItemRow.due <= self._store.now(), *which)
                .order_by(ItemRow.position)
                .limit(count)
                .with_for_update(skip_locked=True)
            ).all()
            dead = [row for row in found if row.deaths + (row.state == "leased") >= DEATHS]
            taken = [row for row in found if row not in dead]
            reason = f"the process died {DEATHS} times with it in hand"
            died = ItemRow.deaths + sa.case((ItemRow.state == "leased", 1), else_=0)
            for rows, values in (
                (taken, {"state": "leased", "owner": self.owner, "due": self._store.now() + self.seconds}),
                (dead, {"state": "failed", "owner": None, "kind": "crash", "reason": reason}),
            ):
                if rows:
                    here = ItemRow.job_id == self.job.id, ItemRow.position.in_([row.position for row in rows])
                    connection.execute(sa.update(ItemRow).where(*here).values(deaths=died, **values))
            return [Item(row.position, row.name, row.tries) for row in taken]

    def renew(self) -> None:
        """Keeps all that is held for `seconds` more."""
        with self._store.writing() as connection:
            connection.execute(sa.update(ItemRow).where(*self._mine()).values(due=self._store.now() + self.seconds))

    def release(self) -> None:
        """Gives all that is held back."""
        with self._store.writing() as connection:
            connection.execute(sa.update(ItemRow).where(*self._mine()).values(state="waiting", owner=None, due=0.0))

    def complete(self, pictures: Sequence[Done]) -> set[int]:
        """Keeps what was said and ends those pictures that are still held: their positions. What was said before about
        the same picture, by the same recipe and model, stays and counts."""
        wanted = self.job.wanted
        rows = {done.answer.sha256: self._row(done.answer) for done in pictures}
        with self._store.writing() as connection:
            # In order, so that two owners with the same pictures never wait for each other in a circle.
            insert = self._store.insert(AnnotationsRow).on_conflict_do_nothing()
            connection.execute(insert, [rows[sha256] for sha256 in sorted(rows)])
            said = sa.select(AnnotationsRow.picture, AnnotationsRow.id).where(*about(wanted, list(rows)))
            kept = {row.picture: row.id for row in connection.execute(said.order_by(AnnotationsRow.version))}
            mine = self._mine([done.position for done in pictures])
            held = set(connection.scalars(sa.select(ItemRow.position).where(*mine).with_for_update()))
            changes = [
                {"at": done.position, "said": kept[done.answer.sha256]} for done in pictures if done.position in held
            ]
            if changes:
                items, values = ItemRow.__table__, {"state": "done", "kind": "", "reason": "", "owner": None}
                here = items.c.job_id == self.job.id, items.c.position == sa.bindparam("at")
                change = sa.update(ItemRow.__table__).where(*here)  # type: ignore[arg-type]
                connection.execute(change.values(annotations_id=sa.bindparam("said"), **values), changes)
            return held

    def fail(self, failures: Sequence[Failure], delay: float = 1.0) -> list[Failure]:
        """Counts a try of each of those pictures that is still held: gives those that are set aside with it. The others
        may be taken again after `delay` seconds times their tries."""
        aside = []
        with self._store.writing() as connection:
            for failure in failures:
                tries = failure.tries + 1
                final = failure.final or tries >= TRIES
                due = self._store.now() + delay * tries
                values = {"tries": tries, "kind": failure.kind, "reason": clean(failure.reason), "owner": None}
                change = (
                    sa.update(ItemRow)
                    .where(*self._mine([failure.position]))
                    .values(state="failed" if final else "waiting", due=0.0 if final else due, **values)
                )
                if connection.execute(change).rowcount and final:
                    aside.append(failure)
        return aside

    def _mine(self, positions: Sequence[int] | None = None) -> list[sa.ColumnElement[bool]]:
        """What the owner holds, of these pictures or of all."""
        held = [ItemRow.job_id == self.job.id, ItemRow.state == "leased", ItemRow.owner == self.owner]
        return held if positions is None else [*held, ItemRow.position.in_(positions)]

    def _row(self, answer: Answer) -> dict[str, Any]:
        return {
            "picture": answer.sha256,
            "recipe": self.job.wanted.recipe_hash,
            "model": self.job.wanted.model,
            "version": 1,
            "width": answer.width,
            "height": answer.height,
            "labels": LABELS.dump_json(answer.labels).decode(),
            "created": time.time(),
        }


def about(wanted: Wanted, pictures: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    """What was said about these pictures by a job's recipe and model."""
    return (
        AnnotationsRow.picture.in_(pictures),
        AnnotationsRow.recipe == wanted.recipe_hash,
        AnnotationsRow.model == wanted.model,
    )


def clean(text: str) -> str:
    """A text as every database takes it: bytes of a file's name that are no UTF-8 written out, and no NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
