"""The tables of the database. To change them, add a file to migrations/versions/."""

from sqlalchemy import BigInteger, Boolean, ForeignKey, Index, Integer, String, Text, UniqueConstraint, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite increments a primary key automatically only if its type is INTEGER.
_Id = BigInteger().with_variant(Integer(), "sqlite")
UNFINISHED_STATES = ("waiting", "leased")  # of images: neither done nor failed


class TableBase(DeclarativeBase):
    """The base class of all tables."""


# Jobs


class JobRow(TableBase):
    """A batch labeling job.

    `output` is unique in the database and identifies the job. `recipe` and `options` are JSON. `model_hash` is the hash
    of the base model, the adapters and the project models that answer. Times are Unix timestamps in seconds.
    """

    __tablename__ = "jobs"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    output: Mapped[str] = mapped_column(Text, unique=True)
    recipe: Mapped[str] = mapped_column(Text)
    recipe_hash: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(Text)
    model_hash: Mapped[str] = mapped_column(String(64))
    options: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]


class AnnotationsRow(TableBase):
    """The annotations of one image by one recipe and one model. Rows are added and never changed.

    `image_sha256` is the hash of the image file. `annotations` and `dropped` are JSON; `dropped` counts the labels that
    the recipe did not keep (NULL: by a florist that did not count them).
    """

    __tablename__ = "annotations"
    __table_args__ = (UniqueConstraint("image_sha256", "recipe_hash", "model_hash", "version"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    image_sha256: Mapped[str] = mapped_column(String(64))
    recipe_hash: Mapped[str] = mapped_column(String(64))
    model_hash: Mapped[str] = mapped_column(String(64))
    version: Mapped[int] = mapped_column(Integer)
    width: Mapped[int]
    height: Mapped[int]
    annotations: Mapped[str] = mapped_column(Text)
    dropped: Mapped[str | None] = mapped_column(Text)
    created: Mapped[float]


class JobImageRow(TableBase):
    """One image of a job.

    `position` identifies the image in the job: images that are added later come after the others. `name` is that of the
    source, and unique in the job. `state` is an ImageState. A worker may lease the image from the time `available_at`
    on, by the store's clock: after the current lease has expired, or after the delay before the next attempt.
    `attempts` counts failed attempts, `crashes` counts workers that died while they held the lease. `failure_kind` and
    `failure_reason` describe the last failure. `annotations_id` stays while an image is labeled again. `stamp` is what
    the source said about the version that was labeled last, as ImageSource.get_stamp returns it.
    """

    __tablename__ = "job_images"
    __table_args__ = (
        # These indexes let both databases find the next image without a scan of the finished ones. SQLite would scan
        # them with a partial index on the unfinished images, and with rows in primary key order.
        Index("job_images_by_state", "job_id", "state", "position"),
        Index("job_images_by_failure_kind", "job_id", "state", "failure_kind"),
    )

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), server_default="waiting")
    attempts: Mapped[int] = mapped_column(server_default="0")
    crashes: Mapped[int] = mapped_column(server_default="0")
    failure_kind: Mapped[str] = mapped_column(String(32), server_default="")
    failure_reason: Mapped[str] = mapped_column(Text, server_default="")
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    available_at: Mapped[float] = mapped_column(server_default="0")
    annotations_id: Mapped[int | None] = mapped_column(ForeignKey("annotations.id"))
    stamp: Mapped[str] = mapped_column(Text, server_default="")


# Projects. Deleting a project deletes all its rows.


def _create_project_id() -> Mapped[int]:
    return mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)


class ProjectRow(TableBase):
    """A project: corrections, and the models that are fine-tuned on them.

    `storage_id` is the ID of the projects folder that holds its files, `folder` the project's path in it. `base_sha256`
    is the hash of the weights that its adapters are trained on. `tasks` and `classes` are JSON lists; no classes: it
    declares none. `holdout_share` is the share of its images that are never used for training.
    """

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("storage_id", "name"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    storage_id: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(64))
    base_sha256: Mapped[str] = mapped_column(String(64))
    tasks: Mapped[str] = mapped_column(Text)
    classes: Mapped[str] = mapped_column(Text, server_default="[]")
    holdout_share: Mapped[float]
    folder: Mapped[str] = mapped_column(String(64))
    created: Mapped[float]


class CorrectionRow(TableBase):
    """The annotations of one kind that a person approved for an image. Rows are added and never changed.

    For each image and `label_kind`, the highest `version` is the current one. `annotations` is JSON. `complete` is
    whether every object of that kind in the image is annotated. A `withdrawn` version takes back the one before: it has
    no annotations, and the image counts as not corrected.
    """

    __tablename__ = "corrections"
    __table_args__ = (UniqueConstraint("project_id", "image_sha256", "label_kind", "version"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _create_project_id()
    image_sha256: Mapped[str] = mapped_column(String(64))
    label_kind: Mapped[str] = mapped_column(String(16))
    version: Mapped[int]
    width: Mapped[int]
    height: Mapped[int]
    annotations: Mapped[str] = mapped_column(Text)
    complete: Mapped[bool] = mapped_column(Boolean)
    withdrawn: Mapped[bool] = mapped_column(Boolean, server_default=false())
    image_name: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]


class RunRow(TableBase):
    """A fine-tune run.

    `config` and `metrics` are JSON. `dataset_hash` is the hash of the training and holdout images, `train_images` and
    `holdout_images` are their numbers. `folder` is the path of the run's files in the project's folder.
    `initial_model_id` is the model that the run starts from (NULL: the base model); it is not a foreign key, since
    models refer to runs.
    """

    __tablename__ = "runs"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _create_project_id()
    initial_model_id: Mapped[int | None] = mapped_column(_Id)
    config: Mapped[str] = mapped_column(Text)
    folder: Mapped[str] = mapped_column(String(64))
    dataset_hash: Mapped[str] = mapped_column(String(64))
    train_images: Mapped[int]
    holdout_images: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    metrics: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]
    started: Mapped[float | None]
    ended: Mapped[float | None]


class ModelRow(TableBase):
    """A model for one task: the adapter of a run, or an ensemble of other models.

    `ensemble` is the definition of an ensemble in JSON, "null" for the adapter of a run. `folder` is the path of an
    ensemble's own adapter in the project's folder, or empty. `sha256` is the hash of the weights.
    """

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _create_project_id()
    run_id: Mapped[int | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    task: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))
    folder: Mapped[str] = mapped_column(String(64), server_default="")
    ensemble: Mapped[str] = mapped_column(Text, server_default="null")
    created: Mapped[float]


class BacktestRow(TableBase):
    """A comparison of a challenger with the champion at that time (NULL: the base model) on the holdout images.

    `dataset_hash` is the hash of the holdout images. `image_counts`, `comparison` and `forgetting` are JSON.
    """

    __tablename__ = "backtests"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _create_project_id()
    challenger_id: Mapped[int] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    champion_id: Mapped[int | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    dataset_hash: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    image_counts: Mapped[str] = mapped_column(Text)
    comparison: Mapped[str] = mapped_column(Text)
    forgetting: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]
    ended: Mapped[float | None]


class PromotionRow(TableBase):
    """A change of the model that answers prompts of a task (NULL: the base model). The newest row is in effect.

    `is_rollback` is whether the change went back to the previous model.
    """

    __tablename__ = "promotions"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    project_id: Mapped[int] = _create_project_id()
    task: Mapped[str] = mapped_column(String(64))
    model_id: Mapped[int | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    backtest_id: Mapped[int | None] = mapped_column(ForeignKey("backtests.id", ondelete="CASCADE"))
    is_rollback: Mapped[bool] = mapped_column(Boolean)
    forced: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    created: Mapped[float]
