"""The tables. Whoever changes them adds a file to migrations/versions/."""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite counts up by itself only what is called INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")
OPEN = ("waiting", "leased")  # states in which a picture has not ended


class Base(DeclarativeBase):
    """The tables together."""


class JobRow(Base):
    """`output` names what it writes, once in the whole store; `recipe` and `options` are JSON; `model`: the hash of
    all that answers; times are seconds since 1970."""

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    output: Mapped[str] = mapped_column(Text, unique=True)
    recipe: Mapped[str] = mapped_column(Text)
    recipe_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    model: Mapped[str] = mapped_column(String(64))
    options: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]


class AnnotationsRow(Base):
    """What a recipe and a model said about a picture: added to, never changed. `picture`: the SHA-256 of its file;
    `labels` is JSON."""

    __tablename__ = "annotations"
    __table_args__ = (UniqueConstraint("picture", "recipe", "model", "version"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    picture: Mapped[str] = mapped_column(String(64))
    recipe: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    width: Mapped[int]
    height: Mapped[int]
    labels: Mapped[str] = mapped_column(Text)
    created: Mapped[float]


class ItemRow(Base):
    """One picture of a job. `due`: from when on it may be taken, by the store's clock, for its owner is then taken for
    dead. `tries` failed; `deaths`: how many owners died with it in hand."""

    __tablename__ = "items"
    __table_args__ = (
        # With these, neither database walks past all that is done to what is next: SQLite would with a partial index of
        # what is open, or with rows in the order of their key.
        Index("items_in_state", "job_id", "state", "position"),
        Index("items_of_kind", "job_id", "state", "kind"),
    )

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), server_default="waiting")
    tries: Mapped[int] = mapped_column(server_default="0")
    deaths: Mapped[int] = mapped_column(server_default="0")
    kind: Mapped[str] = mapped_column(String(32), server_default="")
    reason: Mapped[str] = mapped_column(Text, server_default="")
    owner: Mapped[str | None] = mapped_column(String(64))
    due: Mapped[float] = mapped_column(server_default="0")
    annotations_id: Mapped[int | None] = mapped_column(ForeignKey("annotations.id"))
