"""The projects of a server: corrected, tuned, tested and promoted."""

import secrets
import shutil
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from finetune.tuning.config import NOTHING_TO_REPLAY, Anchor, TuneConfig
from finetune.tuning.run_record import fingerprint
from labels.images import MAX_PIXELS, decode_image
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.jobs.output_folder import claim_output_folder
from server.projects import ensemble_models, initial_models, project_dataset, tuner
from server.projects.annotation_validation import checked, kind_of
from server.projects.backtester import Backtester
from server.projects.champion_registry import ChampionRegistry
from server.projects.ensembles import Ensemble, EnsembleBuilder
from server.projects.image_store import ImageStore
from server.projects.initial_models import InitialModel
from server.projects.pinned_models import PinnedProjectModels
from server.projects.review_queue import ReviewCandidate, candidates
from server.projects.tuner import Tuner
from server.store import InvalidStateError, JobStore
from server.store.projects.ensembles import AdapterSum, EnsembleDefinition
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import (
    ENDED,
    Backtest,
    Correction,
    CorrectionContent,
    ModelVersion,
    NoTrainingDataError,
    Project,
    Promotion,
    Run,
)
from server.store.projects.registry import Registry

_HOME = "home"  # the file that holds the folder's id


class Projects:
    """Safe to use from any thread. Methods raise what the store does, and Missing for what is not there."""

    def __init__(self, folder: Path, store: JobStore) -> None:
        """`folder` is this server's own: for corrected pictures, runs and adapters. `store`: the database of jobs.
        Raises OSError for the folder."""
        self.folder = folder.absolute()
        with ExitStack() as stack:
            stack.enter_context(claim_output_folder(self.folder))
            self.store = ProjectStore(store, _home(self.folder))
            self._until = stack.pop_all()
        self.registry = Registry(self.store)
        self.tuner, self.examiner = Tuner(self.registry, self.folder), Backtester(self.registry, self.folder)
        self._panels = EnsembleBuilder(self.registry, self.folder)
        self.seating = PinnedProjectModels(self.registry, self.folder)  # for jobs
        self._engine: Engine | None = None
        self._champions: ChampionRegistry | None = None
        self._changing = threading.RLock()  # who answers, and which projects there are

    def load(self, engine: Engine) -> None:
        """Puts the champions into an engine."""
        self._engine, self._champions = engine, ChampionRegistry(engine)
        for project in self.store.projects():
            self.champions.add(project, self._answering(project))

    def start(self) -> None:
        """Begins to work, with what another process left undone."""
        self.tuner.start(self.engine)
        self.examiner.start(self.engine)

    def close(self) -> None:
        """Stops; what is under way is gone on with after the next start."""
        self.tuner.close()
        self.examiner.close()
        self._until.close()

    @property
    def engine(self) -> Engine:
        assert self._engine is not None
        return self._engine

    @property
    def champions(self) -> ChampionRegistry:
        assert self._champions is not None
        return self._champions

    # Projects

    def create(self, name: str, tasks: Sequence[str], held_share: float) -> Project:
        """A new one, on the weights that are served. Raises NameTaken."""
        base, folder = self.engine.checkpoint.sha256, f"project-{secrets.token_hex(8)}"
        with self._changing:
            project = self.store.create(Project(0, name, base, tuple(tasks), held_share, folder, 0.0))
            self.champions.add(project, {})
        return project

    def delete(self, project: Project) -> None:
        """With its pictures, runs and adapters. Prompts under way end as they began."""
        with self._changing:
            for run in self.registry.runs(project):
                if run.state not in ENDED:
                    with suppress(InvalidStateError):  # it has ended meanwhile
                        self.cancel(project, run)
            self.store.delete(project)
            self.champions.remove(project)
        shutil.rmtree(self.folder / project.folder, ignore_errors=True)

    # Corrections

    def correct(
        self, project: Project, data: bytes, annotations: Sequence[Annotation], *, kind: LabelKind | None = None,
        complete: bool = True, name: str = "", author: str = "", max_pixels: int = MAX_PIXELS,
    ) -> Correction:  # fmt: skip
        """Keeps a picture's file and all labels of one kind that it has (`kind`, None: of that which they are).
        Raises ImageError, InvalidLabels, and OSError where there is no room for the picture."""
        size = decode_image(data, max_bytes=len(data), max_pixels=max_pixels).size
        kind, notes = checked(annotations, size, kind)
        sha256 = self._pictures(project).keep(data)
        return self.store.correct(project, [CorrectionContent(sha256, kind, *size, notes, complete, name, author)])[0]

    def take(self, project: Project, pictures: Iterable[LabeledImage], author: str) -> int:
        """Takes a job's labels as they stand, as if a person had said them; how many pictures. Raises InvalidLabels,
        and OSError for a picture that is gone or finds no room."""
        count = 0
        for picture in pictures:
            by_kind: dict[LabelKind, list[Annotation]] = {}
            for label in picture.traces:
                if label.parent is None:  # what was asked about a region is no caption of the picture
                    by_kind.setdefault(kind_of(label.annotation), []).append(label.annotation)
            said = [checked(notes, (picture.width, picture.height), kind) for kind, notes in by_kind.items()]
            if said:
                sha256 = self._pictures(project).keep(picture.read())
                size = picture.width, picture.height
                self.store.correct(
                    project,
                    [CorrectionContent(sha256, kind, *size, notes, True, picture.name, author) for kind, notes in said],
                )
                count += 1
        return count

    def next(
        self, project: Project, pictures: Iterable[tuple[int, LabeledImage]], count: int
    ) -> tuple[list[ReviewCandidate], int]:
        """Of a job's pictures, with their positions, those that should be corrected next; and how many are not
        corrected."""
        said = [each.said for each in self.store.newest(project)]
        known = [note.label for each in said for note in each.annotations]
        return candidates(pictures, {each.picture for each in said}, known, project.tasks, count)

    # Runs

    def tune(self, project: Project, settings: dict[str, Any], author: str, start: InitialModel | None = None) -> Run:
        """Queues a fine-tune on what is corrected now. `settings`: of TuneConfig's, but for its base; `start`: the
        model to go on from, None: the base. Raises OtherBase, NothingToLearn, what `starts` does, pydantic's
        ValidationError, and OSError where there is no room for its folder."""
        self.champions.check(project)
        name = self.engine.checkpoint.name
        base = SEEDLING if name == SEEDLING else str(self.engine.checkpoint.folder)
        config = TuneConfig.model_validate({"tasks": project.tasks, **settings, "base": base})
        if config.anchor is Anchor.KL and not config.replays:
            raise NoTrainingDataError(NOTHING_TO_REPLAY)
        known = project_dataset.of(project, self.store.newest(project), self._pictures(project))
        known.check(config.tasks, project.held_share)
        config = config.model_copy(update={"tasks": tuple(known.tasks(config.tasks))})
        kept, adapter = config.model_dump(mode="json"), ""
        if start is not None:
            model = initial_models.named(self.registry, project, start, config.tasks)
            kept |= {**initial_models.shape(self.registry, project, model, settings), "start": model.id}
            adapter = model.folder
        folder = f"runs/{secrets.token_hex(8)}"
        wanted = {
            "dataset": f"project:{project.name}", "config": kept, "start": adapter, **project_dataset.written(known)
        }  # fmt: skip
        tuner.prepare(self.folder / project.folder / folder, wanted)
        data = fingerprint((*known.train, *known.held))
        run = self.registry.add_run(project, kept, folder, data, len(known.train), len(known.held), author)
        self.tuner.worker.wake()
        return run

    def cancel(self, project: Project, run: Run) -> Run:
        """Ends a run for good. Raises NotNow."""
        cancelled = self.registry.cancel(project, run)
        self.tuner.drop(run)
        return cancelled

    def resume(self, project: Project, run: Run) -> Run:
        """Queues a run that failed; it goes on where it stopped. Raises NotNow."""
        resumed = self.registry.resume(project, run)
        self.tuner.worker.wake()
        return resumed

    # Models of others, and who answers

    def combine(self, project: Project, combined: EnsembleDefinition) -> ModelVersion:
        """A model that is made of others, one entry of the registry more. Raises Missing, CannotCombine, and OSError
        where there is no room for its adapter."""
        models = [self.registry.model(project, number) for number in combined.models if number is not None]
        task = ensemble_models.task_of(models)
        combined.check(task)
        if not isinstance(combined, AdapterSum):
            return self.registry.combine(project, task, combined, ensemble_models.sha256_of(combined, models), "")
        folder = f"models/{secrets.token_hex(8)}"
        adapters = {model.id: self._panels.adapter(project, model).folder for model in models}
        sha256 = ensemble_models.add(combined, adapters, self.folder / project.folder / folder)
        return self.registry.combine(project, task, combined, sha256, folder)

    def test(self, project: Project, model: ModelVersion, author: str, probe: int = 0) -> Backtest:
        """Queues a backtest of a model against who answers now. `probe`: how many scenes or pictures of the base's own
        world at most are to tell what the model has forgotten. Raises OtherBase."""
        self.champions.check(project)
        champion = self.registry.champion(project, model.task)
        test = self.registry.add_backtest(project, model, champion, probe, author)
        self.examiner.worker.wake()
        return test

    def promote(
        self, project: Project, model: ModelVersion, author: str, *, forced: bool = False, reason: str = ""
    ) -> Promotion:
        """The model answers for its task from now on. Raises NotEarned, OtherBase, NotNow, and AdapterError where its
        adapter cannot be loaded."""
        self.champions.check(project)
        with self._changing:
            panel = self._panels.of(project, model)
            with self.champions.loaded(panel):
                promotion = self.registry.promote(project, model, author, forced=forced, reason=reason)
            self.champions.put(project, model.task, panel)
        return promotion

    def rollback(self, project: Project, task: str, author: str, reason: str = "") -> Promotion:
        """Who answered before answers again. Raises NothingPromoted, OtherBase, and AdapterError."""
        self.champions.check(project)
        with self._changing:
            before = self.registry.before(project, task)
            panel = None if before is None else self._panels.of(project, self.registry.model(project, before))
            with self.champions.loaded(panel):
                promotion = self.registry.rollback(project, task, author, reason)
            self.champions.put(project, task, panel)
        return promotion

    # Inside

    def _answering(self, project: Project) -> dict[str, Ensemble]:
        """The champions by task."""
        models = {model.id: model for model in self.registry.models(project)}
        newest = {promotion.task: promotion.model for promotion in self.registry.promotions(project)}
        found = {task: models[number] for task, number in newest.items() if number is not None}
        return {task: self._panels.of(project, model) for task, model in found.items()}

    def _pictures(self, project: Project) -> ImageStore:
        return ImageStore(self.folder / project.folder / "pictures")


def _home(folder: Path) -> str:
    """The folder's id, which goes where it is moved."""
    path = folder / _HOME
    if not path.exists():
        part = folder / f"{_HOME}.part"
        part.write_text(secrets.token_hex(16))
        part.replace(path)
    return path.read_text().strip()
