"""What projects keep, in both databases: nothing corrected is ever lost, and only what is won or forced answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from labels.label_kind import LabelKind
from prompts.annotations import Box, Text
from server.store import InvalidStateError, JobStore, migrations
from server.store.projects.ensembles import AdapterSum, BoxFusion, EnsembleDefinition, LabelRouting
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import (
    BacktestImage,
    BacktestResult,
    CorrectionContent,
    ModelVersion,
    NameTakenError,
    NotFoundError,
    NothingPromotedError,
    Project,
    PromotionNotEarnedError,
    Run,
    RunState,
)
from server.store.projects.registry import Registry

BIRD = Box(label="bird", box=(1.0, 2.0, 30.0, 40.0))
SAID = CorrectionContent("a" * 64, LabelKind.OBJECTS, 64, 48, (BIRD,), True, "nest\0.png", "Ada")
LOST = BacktestResult(50.0, 49.0, -3.0, 1.0, 0.7)
WON = BacktestResult(50.0, 20.0, -40.0, -20.0, 1.0)


def begun(registry: Registry, project: Project) -> Run:
    return registry.add_run(project, {"tasks": ["<OD>"], "steps": 2}, "runs/x", "d" * 64, 6, 2, "Ada")


def model(registry: Registry, project: Project, task: str = "<OD>") -> ModelVersion:
    """One that a run made."""
    run = begun(registry, project)
    registry.turn_run(run, RunState.RUNNING, (RunState.QUEUED,))
    assert registry.finish(project, run, {"best": 20.0}, "5" * 64, [task])
    return registry.models(project)[-1]


def judged(
    registry: Registry, project: Project, challenger: ModelVersion, figures: BacktestResult, pictures: int = 10
) -> int:
    champion = registry.champion(project, challenger.task)
    test = registry.add_backtest(project, challenger, champion, 0, "Ada")
    seen = [BacktestImage(f"{number:064}", (1, 0, 0, 0, 0, 2), (0,) * 6) for number in range(pictures)]
    registry.end_backtest(test, RunState.DONE, "", "d" * 64, seen, figures)
    return test.id


def test_a_name_is_one_projects_and_others_folders_are_not_seen(store: ProjectStore, birds: Project) -> None:
    assert store.projects() == [birds] == [store.project(birds.id)]
    with pytest.raises(NameTakenError):
        store.create(replace(birds, tasks=("<OCR>",)))
    elsewhere = ProjectStore(store.store, "elsewhere")
    assert elsewhere.projects() == []
    assert elsewhere.create(birds).id != birds.id
    with pytest.raises(NotFoundError):
        elsewhere.project(birds.id)


def test_corrections_are_added_to(store: ProjectStore, birds: Project) -> None:
    (first,) = store.correct(birds, [SAID])
    other = replace(SAID, picture="b" * 64, annotations=())
    caption = replace(SAID, kind=LabelKind.CAPTIONS, annotations=(Text(label="A bird."),))
    store.correct(birds, [other, caption])
    (second,) = store.correct(birds, [replace(SAID, annotations=(BIRD, BIRD), complete=False)])
    assert (first.version, second.version) == (1, 2)
    assert first.said == replace(SAID, name="nest\\x00.png")
    everything = store.corrections(birds)
    assert [c.id for c in everything] == sorted(c.id for c in everything)
    assert len(everything) == 4
    assert store.corrections(birds, after=first.id, limit=2) == everything[1:3]
    assert [(c.said.picture[0], c.said.kind, c.version) for c in store.newest(birds)] == [
        ("a", LabelKind.OBJECTS, 2),
        ("b", LabelKind.OBJECTS, 1),
        ("a", LabelKind.CAPTIONS, 1),
    ]
    assert store.count(birds) == 2


def test_a_project_goes_with_all_it_has(store: ProjectStore, registry: Registry, birds: Project) -> None:
    store.correct(birds, [SAID])
    made = model(registry, birds)
    judged(registry, birds, made, WON)
    registry.promote(birds, made, "Ada", forced=False, reason="")
    store.delete(birds)
    assert store.projects() == []
    assert registry.next_run() is registry.next_backtest() is None
    with pytest.raises(NotFoundError):
        store.correct(birds, [SAID])


def test_runs_are_taken_in_order_and_gone_on_with(
    registry: Registry, birds: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = begun(registry, birds), begun(registry, birds)
    assert registry.next_run() == (birds, first)
    assert registry.turn_run(first, RunState.RUNNING, (RunState.QUEUED,))
    found = registry.next_run()  # as after a restart
    assert found is not None
    assert (found[1].id, found[1].state) == (first.id, RunState.RUNNING)
    registry.turn_run(first, RunState.FAILED, (RunState.RUNNING,), "the disk is full")
    assert registry.run(birds, first.id).reason == "the disk is full"
    assert registry.resume(birds, first).state is RunState.QUEUED
    assert registry.cancel(birds, second).state is RunState.CANCELLED
    with pytest.raises(InvalidStateError, match="is cancelled"):
        registry.resume(birds, second)
    # Taken up before it is read again: it was resumed all the same.
    registry.turn_run(first, RunState.FAILED, (RunState.QUEUED,))
    turn = registry.turn_run

    def taken(run: Run, to: RunState, states: Sequence[RunState], reason: str = "") -> bool:
        return turn(run, to, states, reason) and turn(run, RunState.RUNNING, (RunState.QUEUED,))

    monkeypatch.setattr(registry, "turn_run", taken)
    assert registry.resume(birds, first).state is RunState.RUNNING
    assert not registry.finish(birds, second, {}, "5" * 64, ["<OD>"])
    assert registry.models(birds) == []
    assert [run.id for run in registry.runs(birds)] == [first.id, second.id]


def test_a_run_that_failed_keeps_what_was_good_as_models(registry: Registry, birds: Project) -> None:
    run = begun(registry, birds)
    registry.turn_run(run, RunState.RUNNING, (RunState.QUEUED,))
    assert registry.finish(birds, run, {"best_step": 2}, "5" * 64, ["<OD>", "<CAPTION>"], "the loss is nan\0")
    failed = registry.run(birds, run.id)
    assert (failed.state, failed.reason, failed.metrics) == (RunState.FAILED, "the loss is nan\\x00", {"best_step": 2})
    numbers = [model.id for model in registry.models(birds)]
    other = begun(registry, birds)
    assert registry.made([failed, other]) == {run.id: numbers, other.id: []}
    assert len(numbers) == 2
    # Going on would change the adapter that its models have.
    with pytest.raises(InvalidStateError, match=f"kept what was good as model {numbers[0]}, {numbers[1]}"):
        registry.resume(birds, failed)
    assert registry.run(birds, run.id).state is RunState.FAILED


def test_a_model_names_the_one_that_its_run_went_on_from(registry: Registry, birds: Project) -> None:
    first = model(registry, birds)
    config = {"tasks": ["<OD>"], "start": first.id}
    run = registry.add_run(birds, config, "runs/y", "d" * 64, 6, 2, "Ada")
    registry.turn_run(run, RunState.RUNNING, (RunState.QUEUED,))
    registry.finish(birds, run, {}, "6" * 64, ["<OD>"])
    assert [each.start for each in registry.models(birds)] == [None, first.id]
    assert registry.run(birds, run.id).start == first.id


def test_only_what_won_against_the_champion_answers(registry: Registry, birds: Project) -> None:
    one, two = model(registry, birds), model(registry, birds)

    def promote(which: ModelVersion, **how: Any) -> Any:
        return registry.promote(birds, which, "Ada", **{"forced": False, "reason": "", **how})

    with pytest.raises(PromotionNotEarnedError, match="has no backtest against the base"):
        promote(one)
    judged(registry, birds, one, LOST)
    with pytest.raises(
        PromotionNotEarnedError, match=r"49\.0 corrections per 100 labels against 50\.0.*-3\.0 and \+1\.0"
    ):
        promote(one)
    judged(registry, birds, one, WON, pictures=9)
    with pytest.raises(
        PromotionNotEarnedError, match="on 9 held-out pictures, and fewer than 10 tell nothing for sure"
    ):
        promote(one)
    against_base = judged(registry, birds, one, WON)
    assert promote(one).backtest == against_base
    assert registry.champion(birds, "<OD>") == one.id
    with pytest.raises(InvalidStateError, match="answers for <OD> already"):
        promote(one)
    # What won against the base has not won against its successor.
    registry.add_backtest(birds, two, None, 0, "Ada")
    registry.end_backtest(registry.backtests(birds)[-1], RunState.DONE, figures=WON)
    with pytest.raises(PromotionNotEarnedError, match=f"has no backtest against model {one.id}"):
        promote(two)
    forced = promote(two, forced=True, reason="I know better")
    assert (forced.forced, forced.reason, forced.author) == (True, "I know better", "Ada")
    assert registry.champion(birds, "<OD>") == two.id
    assert registry.champion(birds, "<CAPTION>") is None


def test_rollbacks_go_back_one_by_one(registry: Registry, birds: Project) -> None:
    one, two = model(registry, birds), model(registry, birds)
    for each in (one, two):
        registry.promote(birds, each, "Ada", forced=True, reason="a test")
    assert registry.before(birds, "<OD>") == one.id
    assert registry.rollback(birds, "<OD>", "Ada", "worse").model == one.id
    assert registry.rollback(birds, "<OD>", "Ada", "").model is None
    with pytest.raises(NothingPromotedError):
        registry.rollback(birds, "<OD>", "Ada", "")
    registry.promote(birds, two, "Ada", forced=True, reason="again")
    assert registry.rollback(birds, "<OD>", "Ada", "").model is None
    assert [(p.model, p.back) for p in registry.promotions(birds)] == [
        (one.id, False),
        (two.id, False),
        (one.id, True),
        (None, True),
        (two.id, False),
        (None, True),
    ]


@pytest.mark.parametrize(
    "combined",
    [
        AdapterSum(combine="add", models=(1, 2), weights=(0.25, -1.5)),
        BoxFusion(combine="fuse", models=(1, None), overlap=0.7),
        LabelRouting(combine="route", models=(1, 2), routes={"bird’s nest": 1, "cat": None}, default=2),
    ],
)
def test_a_model_of_others_is_one_like_any(registry: Registry, birds: Project, combined: EnsembleDefinition) -> None:
    one = model(registry, birds)
    made = registry.combine(birds, "<OD>", combined, "7" * 64, "models/x")
    assert made == registry.model(birds, made.id)
    assert (made.run, made.task, made.sha256, made.folder) == (None, "<OD>", "7" * 64, "models/x")
    assert (made.combined, made.data, made.metrics) == (combined, "", {})
    assert registry.models(birds) == [one, made]
    assert (one.combined, one.folder) == (None, "runs/x/run/adapter")
    with pytest.raises(PromotionNotEarnedError, match="has no backtest against the base"):
        registry.promote(birds, made, "Ada", forced=False, reason="")
    judged(registry, birds, made, WON)
    registry.promote(birds, made, "Ada", forced=False, reason="")
    assert registry.champion(birds, "<OD>") == made.id
    assert registry.rollback(birds, "<OD>", "Ada", "").model is None


def test_what_was_kept_before_models_were_combined_is_kept(url: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "projects")
        home = "'here', 'birds', 'b', '[]', 0.25, 'folder', 1"
        for said in (
            f"projects (home, name, base, tasks, held_share, folder, created) VALUES ({home})",
            "runs (project_id, config, folder, data, taught, held, state, reason, metrics, author, created) "
            "VALUES (1, '{}', 'runs/x', 'd', 6, 2, 'done', '', '{\"best\": 20.0}', 'Ada', 1)",
            "models (project_id, run_id, task, sha256, created) VALUES (1, 1, '<OD>', '5', 1)",
            "backtests (project_id, challenger_id, data, state, reason, tallies, figures, forgetting, author, created) "
            "VALUES (1, 1, 'd', 'done', '', '[]', 'null', '{}', 'Ada', 1)",
            "promotions (project_id, task, model_id, backtest_id, back, forced, reason, author, created) "
            "VALUES (1, '<OD>', 1, 1, false, false, '', 'Ada', 1)",
        ):
            connection.exec_driver_sql(f"INSERT INTO {said}")
    engine.dispose()
    with JobStore(url) as opened:
        registry = Registry(ProjectStore(opened, "here"))
        (project,) = registry.projects.projects()
        (kept,) = registry.models(project)
        assert (kept.run, kept.metrics, kept.folder, kept.combined) == (1, {"best": 20.0}, "runs/x/run/adapter", None)
        assert [test.challenger for test in registry.backtests(project)] == [1]
        assert [promotion.model for promotion in registry.promotions(project)] == [1]
        registry.combine(project, "<OD>", AdapterSum(combine="add", models=(1,)), "7" * 64, "models/x")
        registry.projects.delete(project)  # what refers to what is known as before
        with opened.database.begin_read() as connection:
            for table in ("runs", "models", "backtests", "promotions"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0


def test_a_backtest_is_kept_whole(registry: Registry, birds: Project) -> None:
    made = model(registry, birds)
    number = judged(registry, birds, made, WON)
    kept = registry.backtest(birds, number)
    assert (kept.figures, kept.champion, kept.challenger, kept.state) == (WON, None, made.id, RunState.DONE)
    assert len(kept.tallies) == 10
    assert kept.tallies[9] == BacktestImage(f"{9:064}", (1, 0, 0, 0, 0, 2), (0,) * 6)
    with pytest.raises(NotFoundError):
        registry.backtest(birds, number + 1)
