"""Models made of others, on a tiny model: what they answer, what is loaded for them, and how they are judged."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from finetune.ensembling import fuse, route
from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS
from server.engine.adapters.errors import AdapterError
from server.engine.adapters.lora import CONFIG_FILE, WEIGHT_FILES
from server.engine.engine import Engine
from server.engine.request import Request, Result
from server.projects.projects import Projects
from server.store.projects.ensembles import AdapterSum, BoxFusion, InvalidEnsembleError, LabelRouting
from server.store.projects.records import Backtest, NotFoundError, Project, RunState
from tests.server.engine.tiny import create_image, save_adapter
from tests.server.helpers import PATIENCE, until
from tests.server.projects.project_setup import corrected, loaded, made, opened, promote

OD = TASKS["<OD>"]


def asked(projects: Projects, image: Image.Image) -> Result:
    """What the champion of detection says."""
    engine = projects.engine
    panel = projects.champions.answering("emoji", "<OD>")
    return panel.ask(engine.submit, Request(engine.prepare(image), OD, max_new_tokens=30)).wait(PATIENCE)


def said(engine: Engine, image: Image.Image, adapter: str | None) -> list[Annotation]:
    request = Request(image, OD, adapter=adapter, max_new_tokens=30)
    return engine.submit(request).wait(PATIENCE).annotations


def check_alike(found: Sequence[Annotation], expected: Sequence[Annotation]) -> None:
    """But for what a batch of another size rounds otherwise."""
    assert [note.label for note in found] == [note.label for note in expected]
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Box)
        assert isinstance(other, Box)
        assert one.box == pytest.approx(other.box, abs=0.01)
        assert one.score == pytest.approx(other.score, rel=1e-3)


def judged(projects: Projects, project: Project, number: int) -> Backtest:
    until(lambda: time.sleep(0.05) or projects.registry.backtest(project, number).ended)
    return projects.registry.backtest(project, number)


def test_adapters_added_up_are_one_adapter(tiny: Engine, tmp_path: Path) -> None:
    image = create_image(3)
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        one, two = (made(projects, project, seed) for seed in (1, 2))
        promote(projects, project, one)
        alone = asked(projects, image)
        same = projects.combine(project, AdapterSum(combine="add", models=(one.id,)))
        promote(projects, project, same)
        assert asked(projects, image).tokens == alone.tokens
        assert loaded(tiny) == {f"projects/emoji/model-{same.id}"}
        both = projects.combine(project, AdapterSum(combine="add", models=(same.id, two.id), weights=(1.0, -0.5)))
        assert (both.run, both.task, both.data, both.metrics) == (None, "<OD>", "", {})
        assert projects.registry.models(project) == [one, two, same, both]
        folder = projects.folder / project.folder / both.folder
        assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHT_FILES[0]}
        promote(projects, project, both)
        assert {(adapter.sha256, adapter.rank) for adapter in tiny.adapters()} == {(both.sha256, 8)}
        projects.delete(project)
        assert loaded(tiny) == set()
        assert not folder.exists()


def test_members_answer_in_one_batch_and_the_picture_is_seen_once(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        one, two = (made(projects, project, seed, modules=r".*language_model.*fc1") for seed in (1, 2))
        fusion = BoxFusion(combine="fuse", models=(one.id, None, two.id), weights=(1.0, 0.5, 1.0), overlap=0.4)
        fused = projects.combine(project, fusion)
        routing = LabelRouting(combine="route", models=(one.id, two.id), routes={"a": one.id, "b": two.id})
        routed = projects.combine(project, routing)
        assert fused.combined == fusion
        assert fused.sha256 != routed.sha256
        promote(projects, project, fused)
        members = [f"projects/emoji/run-{one.run}", None, f"projects/emoji/run-{two.run}"]
        assert loaded(tiny) == {members[0], members[2]}
        found = 0
        for seed in range(4, 8):
            image, before = create_image(seed), tiny.stats()
            result, after = asked(projects, image), tiny.stats()
            assert after.pictures - before.pictures == 1
            answers = [said(tiny, image, member) for member in members]
            check_alike(result.annotations, fuse(answers, fusion.weights, fusion.overlap))
            assert len(result.text.split("\n")) == 3
            assert result.timing.total_ms > 0
            found += len(result.annotations)
        assert found
        promote(projects, project, routed)
        by_model = dict(
            zip("120", (said(tiny, image, member) for member in (members[0], members[2], None)), strict=True)
        )
        check_alike(asked(projects, image).annotations, route(by_model, {"a": "1", "b": "2"}, "0"))
        projects.delete(project)


def test_adapters_go_when_the_last_that_needs_them_goes(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        one, two = (made(projects, project, seed) for seed in (1, 2))
        names = [f"projects/emoji/run-{model.run}" for model in (one, two)]
        fused = projects.combine(project, BoxFusion(combine="fuse", models=(one.id, two.id)))
        promote(projects, project, one)
        promote(projects, project, fused)
        assert loaded(tiny) == set(names)
    for name in names:
        tiny.unload_adapter(name)
    with opened(tmp_path, tiny, start=False) as projects:
        assert projects.champions.answering("emoji", "<OD>").name == f"projects/emoji/model-{fused.id}"
        assert loaded(tiny) == set(names)
        projects.rollback(project, "<OD>", "Ada")
        assert loaded(tiny) == {names[0]}
        # One of the members is gone from the disk: the other one is not left behind.
        (projects.folder / project.folder / two.folder / WEIGHT_FILES[0]).unlink()
        with pytest.raises(AdapterError):
            promote(projects, project, fused)
        assert projects.champions.answering("emoji", "<OD>").name == names[0]
        assert loaded(tiny) == {names[0]}
        projects.rollback(project, "<OD>", "Ada")
        with pytest.raises(AdapterError):
            promote(projects, project, fused)
        assert loaded(tiny) == set()
        projects.delete(project)


def test_a_combined_model_is_backtested_like_any_other(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        one, two = (made(projects, project, seed) for seed in (1, 2))
        fused = projects.combine(project, BoxFusion(combine="fuse", models=(one.id, None)))
    with opened(tmp_path, tiny) as projects:
        test = judged(projects, project, projects.test(project, fused, "Ada").id)
        assert test.state is RunState.DONE, test.reason
        assert test.figures is not None
        assert loaded(tiny) == set()
        promote(projects, project, fused)
        test = judged(projects, project, projects.test(project, two, "Ada").id)
        assert (test.state, test.champion) == (RunState.DONE, fused.id)
        assert loaded(tiny) == {f"projects/emoji/run-{one.run}"}
        same = judged(projects, project, projects.test(project, fused, "Ada").id)
        assert all(seen.champion == seen.challenger for seen in same.tallies)
        projects.delete(project)


def test_what_cannot_be_combined_is_refused(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project, other = corrected(projects), corrected(projects, "other")
        one, two = (made(projects, project, seed) for seed in (1, 2))
        caption, elsewhere = made(projects, project, 3, "<CAPTION>"), made(projects, other, 4)
        fused = projects.combine(project, BoxFusion(combine="fuse", models=(one.id, two.id)))
        with pytest.raises(NotFoundError, match=f"no model {elsewhere.id}"):
            projects.combine(project, AdapterSum(combine="add", models=(one.id, elsewhere.id)))
        with pytest.raises(
            InvalidEnsembleError, match=f"model {one.id} answers <OD>, and model {caption.id} <CAPTION>"
        ):
            projects.combine(project, AdapterSum(combine="add", models=(one.id, caption.id)))
        with pytest.raises(InvalidEnsembleError, match=f"model {fused.id} is of several"):
            projects.combine(project, AdapterSum(combine="add", models=(one.id, fused.id)))
        with pytest.raises(InvalidEnsembleError, match="only boxes can be fused"):
            projects.combine(project, BoxFusion(combine="fuse", models=(caption.id, None)))
        save_adapter(projects.folder / project.folder / two.folder, 2, target_modules=["fc1"], use_dora=True)
        with pytest.raises(InvalidEnsembleError, match=rf"^model {two.id} holds .* no LoRA weight"):
            projects.combine(project, AdapterSum(combine="add", models=(one.id, two.id)))
        (projects.folder / project.folder / two.folder / WEIGHT_FILES[0]).unlink()
        with pytest.raises(InvalidEnsembleError, match=f"^model {two.id} is no adapter") as caught:
            projects.combine(project, AdapterSum(combine="add", models=(one.id, two.id)))
        assert str(tmp_path) not in str(caught.value)
        assert not (projects.folder / project.folder / "models").exists()
        assert [model.id for model in projects.registry.models(project)] == [one.id, two.id, caption.id, fused.id]
