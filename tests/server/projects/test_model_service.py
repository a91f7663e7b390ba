"""Ensembles on a tiny model: what they answer, which adapters are loaded for them, and how they are tested."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from finetune.ensembling import fuse_boxes, route_classes
from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS
from server.engine.adapters.errors import AdapterError
from server.engine.adapters.lora import CONFIG_FILE, WEIGHT_FILES
from server.engine.engine import Engine
from server.engine.request import Request, Result
from server.projects.errors import InvalidEnsembleError
from server.projects.projects import Projects
from server.store.projects.ensembles import AdapterSum, BoxFusion, LabelRouting
from server.store.projects.errors import NotFoundError
from server.store.projects.records import Backtest, ExecutionState, ModelVersion, Project
from tests.server.engine.tiny import create_image, save_adapter
from tests.server.helpers import TIMEOUT, wait_until
from tests.server.projects.project_setup import (
    add_random_model,
    create_project,
    force_promotion,
    list_adapters,
    open_projects,
)

OD = TASKS["<OD>"]


def ask_champion(projects: Projects, image: Image.Image) -> Result:
    """Returns what the champion of detection answers."""
    engine = projects.engine
    ensemble = projects.champions.find_champion("emoji", "<OD>")
    return ensemble.submit(engine.submit, Request(engine.prepare(image), OD, max_new_tokens=30)).wait(TIMEOUT)


def ask_adapter(engine: Engine, image: Image.Image, adapter: str | None) -> list[Annotation]:
    request = Request(image, OD, adapter=adapter, max_new_tokens=30)
    return engine.submit(request).wait(TIMEOUT).annotations


def check_equal(actual: Sequence[Annotation], expected: Sequence[Annotation]) -> None:
    """Checks that annotations are equal up to rounding: batches of other sizes round differently."""
    assert [annotation.label for annotation in actual] == [annotation.label for annotation in expected]
    for one, other in zip(actual, expected, strict=True):
        assert isinstance(one, Box)
        assert isinstance(other, Box)
        assert one.box == pytest.approx(other.box, abs=0.01)
        assert one.score == pytest.approx(other.score, rel=1e-3)


def run_backtest(projects: Projects, project: Project, model: ModelVersion) -> Backtest:
    number = projects.models.start_backtest(project, model, "Ada").id
    wait_until(lambda: time.sleep(0.05) or projects.store.backtests.get_backtest(project, number).ended)
    return projects.store.backtests.get_backtest(project, number)


def test_a_sum_of_adapters_is_one_adapter(engine: Engine, tmp_path: Path) -> None:
    image = create_image(3)
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        one, two = (add_random_model(projects, project, seed) for seed in (1, 2))
        force_promotion(projects, project, one)
        alone = ask_champion(projects, image)
        same = projects.models.create_ensemble(project, AdapterSum(combine="add", models=(one.id,)))
        force_promotion(projects, project, same)
        assert ask_champion(projects, image).tokens == alone.tokens
        assert list_adapters(engine) == {f"projects/emoji/model-{same.id}"}
        both = projects.models.create_ensemble(
            project, AdapterSum(combine="add", models=(same.id, two.id), weights=(1.0, -0.5))
        )
        assert (both.run_id, both.task, both.dataset_hash, both.metrics) == (None, "<OD>", "", {})
        assert projects.store.models.list_models(project) == [one, two, same, both]
        folder = projects.files.get_adapter_folder(project, both)
        assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHT_FILES[0]}
        force_promotion(projects, project, both)
        assert {(adapter.sha256, adapter.rank) for adapter in engine.list_adapters()} == {(both.sha256, 8)}
        projects.delete_project(project)
        assert list_adapters(engine) == set()
        assert not folder.exists()


def test_members_answer_in_one_batch_and_the_image_is_encoded_once(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        one, two = (add_random_model(projects, project, seed, modules=r".*language_model.*fc1") for seed in (1, 2))
        fusion = BoxFusion(combine="fuse", models=(one.id, None, two.id), weights=(1.0, 0.5, 1.0), iou_threshold=0.4)
        fused = projects.models.create_ensemble(project, fusion)
        routing = LabelRouting(combine="route", models=(one.id, two.id), routes={"a": one.id, "b": two.id})
        routed = projects.models.create_ensemble(project, routing)
        assert fused.ensemble == fusion
        assert fused.sha256 != routed.sha256
        force_promotion(projects, project, fused)
        members = [f"projects/emoji/run-{one.run_id}", None, f"projects/emoji/run-{two.run_id}"]
        assert list_adapters(engine) == {members[0], members[2]}
        annotations = 0
        for seed in range(4, 8):
            image, before = create_image(seed), engine.get_stats()
            result, after = ask_champion(projects, image), engine.get_stats()
            assert after.images - before.images == 1
            answers = [ask_adapter(engine, image, member) for member in members]
            check_equal(result.annotations, fuse_boxes(answers, fusion.weights, fusion.iou_threshold))
            assert len(result.text.split("\n")) == 3
            assert result.timing.total_ms > 0
            annotations += len(result.annotations)
        assert annotations
        force_promotion(projects, project, routed)
        answers = [ask_adapter(engine, image, member) for member in (members[0], members[2], None)]
        by_model = dict(zip("120", answers, strict=True))
        check_equal(ask_champion(projects, image).annotations, route_classes(by_model, {"a": "1", "b": "2"}, "0"))
        projects.delete_project(project)


def test_an_adapter_is_unloaded_with_the_last_champion_that_uses_it(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        one, two = (add_random_model(projects, project, seed) for seed in (1, 2))
        names = [f"projects/emoji/run-{model.run_id}" for model in (one, two)]
        fused = projects.models.create_ensemble(project, BoxFusion(combine="fuse", models=(one.id, two.id)))
        force_promotion(projects, project, one)
        force_promotion(projects, project, fused)
        assert list_adapters(engine) == set(names)
    for name in names:
        engine.unload_adapter(name)
    with open_projects(tmp_path, engine, start=False) as projects:
        assert projects.champions.find_champion("emoji", "<OD>").name == f"projects/emoji/model-{fused.id}"
        assert list_adapters(engine) == set(names)
        projects.models.roll_back(project, "<OD>", "Ada")
        assert list_adapters(engine) == {names[0]}
        # One member is missing on disk: the other one is unloaded again.
        (projects.files.get_adapter_folder(project, two) / WEIGHT_FILES[0]).unlink()
        with pytest.raises(AdapterError):
            force_promotion(projects, project, fused)
        assert projects.champions.find_champion("emoji", "<OD>").name == names[0]
        assert list_adapters(engine) == {names[0]}
        projects.models.roll_back(project, "<OD>", "Ada")
        with pytest.raises(AdapterError):
            force_promotion(projects, project, fused)
        assert list_adapters(engine) == set()
        projects.delete_project(project)


def test_an_ensemble_is_backtested_like_any_other_model(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        one, two = (add_random_model(projects, project, seed) for seed in (1, 2))
        fused = projects.models.create_ensemble(project, BoxFusion(combine="fuse", models=(one.id, None)))
    with open_projects(tmp_path, engine) as projects:
        backtest = run_backtest(projects, project, fused)
        assert backtest.state is ExecutionState.DONE, backtest.reason
        assert backtest.comparison is not None
        assert list_adapters(engine) == set()
        force_promotion(projects, project, fused)
        backtest = run_backtest(projects, project, two)
        assert (backtest.state, backtest.champion_id) == (ExecutionState.DONE, fused.id)
        assert list_adapters(engine) == {f"projects/emoji/run-{one.run_id}"}
        same = run_backtest(projects, project, fused)
        assert all(counts.champion == counts.challenger for counts in same.image_counts)
        projects.delete_project(project)


def test_models_that_cannot_be_combined_are_refused(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project, other = create_project(projects), create_project(projects, "other")
        create = projects.models.create_ensemble
        one, two = (add_random_model(projects, project, seed) for seed in (1, 2))
        caption = add_random_model(projects, project, 3, "<CAPTION>")
        elsewhere = add_random_model(projects, other, 4)
        fused = create(project, BoxFusion(combine="fuse", models=(one.id, two.id)))
        with pytest.raises(NotFoundError, match=f"no model {elsewhere.id}"):
            create(project, AdapterSum(combine="add", models=(one.id, elsewhere.id)))
        with pytest.raises(
            InvalidEnsembleError, match=f"model {one.id} answers <OD>, and model {caption.id} <CAPTION>"
        ):
            create(project, AdapterSum(combine="add", models=(one.id, caption.id)))
        with pytest.raises(InvalidEnsembleError, match=f"model {fused.id} is an ensemble"):
            create(project, AdapterSum(combine="add", models=(one.id, fused.id)))
        with pytest.raises(InvalidEnsembleError, match="only boxes can be fused"):
            create(project, BoxFusion(combine="fuse", models=(caption.id, None)))
        folder = projects.files.get_adapter_folder(project, two)
        save_adapter(folder, 2, target_modules=["fc1"], use_dora=True)
        with pytest.raises(InvalidEnsembleError, match=rf"^model {two.id} contains .* not a LoRA weight"):
            create(project, AdapterSum(combine="add", models=(one.id, two.id)))
        (folder / WEIGHT_FILES[0]).unlink()
        with pytest.raises(InvalidEnsembleError, match=f"^model {two.id} is not an adapter") as caught:
            create(project, AdapterSum(combine="add", models=(one.id, two.id)))
        assert str(tmp_path) not in str(caught.value)
        assert not (projects.files.get_project_folder(project) / "models").exists()
        assert [model.id for model in projects.store.models.list_models(project)] == [
            one.id, two.id, caption.id, fused.id,
        ]  # fmt: skip
