"""The tables. Whoever changes them adds a file to migrations/versions/."""

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint
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


# Projects: micro-models. Rows go with their project.


def _of_project() -> Mapped[int]:
    return mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)


class ProjectRow(Base):
    """What a team corrects, and what learns from it. `home`: the id of the folder that has its files, `folder` within
    it; `base`: SHA-256 of the weights that its adapters stand on; `tasks` is a JSON list; `held_share` of its pictures
    are never taught."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("home", "name"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    home: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(64))
    base: Mapped[str] = mapped_column(String(64))
    tasks: Mapped[str] = mapped_column(Text)
    held_share: Mapped[float]
    folder: Mapped[str] = mapped_column(String(64))
    created: Mapped[float]


class CorrectionRow(Base):
    """What a person says of a picture: added to, never changed; of a picture and `kind` of label the highest `version`
    counts. `picture`: the SHA-256 of its file; `annotations` is JSON; `complete`: whether all of the kind is there."""

    __tablename__ = "corrections"
    __table_args__ = (UniqueConstraint("project_id", "picture", "kind", "version"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _of_project()
    picture: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    version: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    annotations: Mapped[str] = mapped_column(Text)
    complete: Mapped[bool] = mapped_column(Boolean)
    name: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]


class RunRow(Base):
    """A fine-tune. `config` and `metrics` are JSON; `data`: the hash of what is taught and held out, so many pictures;
    `folder`: of its files, within the project's."""

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _of_project()
    config: Mapped[str] = mapped_column(Text)
    folder: Mapped[str] = mapped_column(String(64))
    data: Mapped[str] = mapped_column(String(64))
    taught: Mapped[int]
    held: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    metrics: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]


class ModelRow(Base):
    """What answers for one task: an adapter that a run made, or a model that is made of others (`combined`, JSON, not
    null; `folder`, within the project's: of its own adapter, where it has one). `sha256`: of the weights."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _of_project()
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    task: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    folder: Mapped[str] = mapped_column(String(64), server_default="")
    combined: Mapped[str] = mapped_column(Text, server_default="null")
    created: Mapped[float]


class BacktestRow(Base):
    """A model against the champion of its time (NULL: the base alone). `data`: the hash of the held-out pictures;
    `tallies`, `figures` and `forgetting` are JSON."""

    __tablename__ = "backtests"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _of_project()
    challenger_id: Mapped[int] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    champion_id: Mapped[int | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    data: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    tallies: Mapped[str] = mapped_column(Text)
    figures: Mapped[str] = mapped_column(Text)
    forgetting: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]
    ended: Mapped[float | None]


class PromotionRow(Base):
    """Who answers for a task from then on (NULL: the base alone): the newest row says it. `back`: it was a rollback."""

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _of_project()
    task: Mapped[str] = mapped_column(String(64))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    backtest_id: Mapped[int | None] = mapped_column(ForeignKey("backtests.id", ondelete="CASCADE"))
    back: Mapped[bool] = mapped_column(Boolean)
    forced: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]
