"""The runner, with the real seedling and recipes of a few lines."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from labels.labeled_image import TracedAnnotation
from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import EngineClosedError
from server.engine.request import Request
from server.jobs.model_prompts import ModelPrompt, RecipeExecution
from server.jobs.output_folder import OutputError, claim_output_folder
from server.jobs.runner import JobFailedError, compute_model_hash, run_job
from server.jobs.sources import open_source
from server.store import (
    CompletedImage,
    FailedImage,
    Item,
    Job,
    JobProgress,
    JobSpec,
    JobState,
    JobStore,
    StoreError,
    StoreUnavailableError,
)
from server.store.jobs.leases import TRIES, JobLeases
from tests.server.helpers import ROOT

OD, REGION = TASKS["<OD>"], TASKS["<REGION_TO_CATEGORY>"]


def detect(size: tuple[int, int]) -> RecipeExecution:
    [result] = yield [ModelPrompt(OD)]
    return [TracedAnnotation(note, "things", raw=result.text) for note in result.annotations]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for seed in range(3):
        draw_scene(7000 + seed).image.save(made / f"{seed}.png")
    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as opened:
        yield opened


def shades(folder: Path) -> None:
    """More pictures than the engine is asked about at a time."""
    for shade in range(40):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / f"shade {shade:02}.png")


def label(
    store: JobStore,
    engine: Engine,
    folder: Path,
    annotate: Callable[[tuple[int, int]], RecipeExecution] = detect,
    told: Callable[[CompletedImage | FailedImage], None] = lambda one: None,
) -> Job:
    with open_source(str(folder)) as source:
        wanted = JobSpec("out", "{}", "a" * 64, str(folder), source.fingerprint, compute_model_hash(engine))
        job = store.get_or_create_job(wanted, source.names)
        return run_job(store, job, engine, source, annotate, exclusive=True, on_image=told)


def test_a_picture_that_is_there_several_times_is_asked_about_once(
    store: JobStore, engine: Engine, folder: Path
) -> None:
    for copy in range(4):
        (folder / f"copy {copy}.png").write_bytes((folder / "1.png").read_bytes())
    before, heard = engine.get_stats().submitted, []
    job = label(store, engine, folder, told=heard.append)
    assert job.state is JobState.DONE
    assert engine.get_stats().submitted - before == 3
    labelled = {picture.name: picture.traces for picture in store.iter_images(job)}
    assert len(labelled) == len(heard) == 7
    assert all(labelled[f"copy {copy}.png"] == labelled["1.png"] != labelled["0.png"] for copy in range(4))
    assert {each.model for labels in labelled.values() for each in labels} == {engine.checkpoint.sha256}
    assert label(store, engine, folder).state is JobState.DONE
    assert engine.get_stats().submitted - before == 3


def test_parts_and_mirror_images_are_what_the_engine_sees(store: JobStore, engine: Engine, folder: Path) -> None:
    crop = (10, 20, 200, 180)

    def annotate(size: tuple[int, int]) -> RecipeExecution:
        results = yield [
            ModelPrompt(OD, crop=crop),
            ModelPrompt(OD, crop=crop, mirrored=True),
            ModelPrompt(OD, mirrored=True),
        ]
        more = yield [ModelPrompt(REGION, region=(0, 0, 50, 40), crop=crop)]
        return [TracedAnnotation(note, str(i)) for i, r in enumerate([*results, *more]) for note in r.annotations]

    job = label(store, engine, folder, annotate)
    for picture in store.iter_images(job):
        whole = Image.open(folder / picture.name).convert("RGB")
        part = whole.crop(crop)
        expected = [
            engine.submit(request).wait()
            for request in (
                Request(part, OD),
                Request(ImageOps.mirror(part), OD),
                Request(ImageOps.mirror(whole), OD),
                Request(part, REGION, region=(0, 0, 50, 40)),
            )
        ]
        notes = [(str(i), note) for i, result in enumerate(expected) for note in result.annotations]
        assert [(each.step, each.annotation.label) for each in picture.traces] == [(i, n.label) for i, n in notes]
        for each, (_, note) in zip(picture.traces, notes, strict=True):
            assert each.annotation.score == pytest.approx(note.score, abs=1e-3)
            assert each.annotation.model_copy(update={"score": note.score}) == note


def test_what_fails_is_set_aside_and_the_job_goes_on(store: JobStore, engine: Engine, folder: Path) -> None:
    for name, size in (("odd.png", (33, 20)), ("outside.png", (44, 20))):
        Image.new("RGB", size, "teal").save(folder / name)
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "gone.png").symlink_to("nowhere.png")

    def annotate(size: tuple[int, int]) -> RecipeExecution:
        if size[0] == 33:
            raise ValueError("out of luck")
        if size[0] == 44:
            yield [ModelPrompt(OD), ModelPrompt(REGION, region=(0, 0, 500, 40))]
        return (yield from detect(size))

    job = label(store, engine, folder, annotate)
    failures = {failure.name: failure for failure in store.iter_failures(job)}
    assert job.state is JobState.DONE
    assert store.get_progress(job).done == 3
    assert (failures["odd.png"].kind, failures["odd.png"].reason, failures["odd.png"].tries) == (
        "model", "out of luck", TRIES,
    )  # fmt: skip
    assert (failures["outside.png"].kind, failures["outside.png"].tries) == ("request", 1)
    assert "reaches outside the image" in failures["outside.png"].reason
    assert (failures["page.jpg"].kind, failures["page.jpg"].reason[:18]) == ("unsupported", "this is a web page")
    assert store.retry_failed(job, "request") == 1
    assert label(store, engine, folder).state is JobState.DONE
    assert store.get_progress(job).done == 4


def test_a_model_that_fails_on_everything_fails_the_job(store: JobStore, engine: Engine, folder: Path) -> None:
    shades(folder)

    def annotate(size: tuple[int, int]) -> RecipeExecution:
        raise RuntimeError("the device is lost")

    with pytest.raises(JobFailedError, match="the device is lost"):
        label(store, engine, folder, annotate)
    [job] = store.list_jobs()
    assert (job.state, "the device is lost" in job.reason) == (JobState.FAILED, True)
    assert store.get_progress(job).leased == 0
    store.resume(job)
    store.retry_failed(job)
    assert label(store, engine, folder).state is JobState.DONE


@pytest.mark.parametrize("how", ["pause", "cancel"])
def test_a_job_stops_when_it_is_told(store: JobStore, engine: Engine, folder: Path, how: str) -> None:
    shades(folder)
    heard: list[CompletedImage | FailedImage] = []

    def told(one: CompletedImage | FailedImage) -> None:
        if not heard:
            getattr(store, how)(store.list_jobs()[0])
            time.sleep(0.6)  # the runner looks about twice a second
        heard.append(one)

    job = label(store, engine, folder, told=told)
    assert job.state is (JobState.PAUSED if how == "pause" else JobState.CANCELLED)
    assert store.get_progress(job) == JobProgress(waiting=43 - len(heard), done=len(heard))
    assert len(heard) < 43
    if how == "pause":
        store.resume(job)
        assert label(store, engine, folder).state is JobState.DONE
        assert store.get_progress(job) == JobProgress(done=43)


def test_what_ends_a_run_gives_back_what_it_held(store: JobStore, engine: Engine, folder: Path) -> None:
    def told(one: CompletedImage | FailedImage) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(store, engine, folder, told=told)
    progress = store.get_progress(store.list_jobs()[0])
    assert (progress.leased, progress.total) == (0, 3)
    assert label(store, engine, folder).state is JobState.DONE


def test_pictures_that_end_one_after_the_other_are_written_together(
    store: JobStore, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shades(folder)
    complete, written, turns = JobLeases.complete, list[int](), itertools.count(1)

    def counted(self: JobLeases, pictures: Sequence[CompletedImage]) -> set[int]:
        written.append(len(pictures))
        return complete(self, pictures)

    def annotate(size: tuple[int, int]) -> RecipeExecution:
        time.sleep(0.02 * next(turns))
        return []
        yield

    monkeypatch.setattr(JobLeases, "complete", counted)
    assert label(store, engine, folder, annotate).state is JobState.DONE
    assert sum(written) == 43
    assert len(written) < 43 / 3


def test_what_was_leased_by_a_call_whose_answer_got_lost_is_labelled_too(
    store: JobStore, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shades(folder)
    take, lost = JobLeases.take, list[Item]()

    def cut_off(self: JobLeases, count: int) -> list[Item]:
        items = take(self, count)
        if not lost and items:
            lost.extend(items)
            raise StoreUnavailableError("the connection broke after the database did it")
        return items

    monkeypatch.setattr(JobLeases, "take", cut_off)
    job = label(store, engine, folder)
    assert (job.state, len(lost) > 0) == (JobState.DONE, True)
    assert store.get_progress(job) == JobProgress(done=43)


def test_more_questions_than_the_engine_has_room_for(store: JobStore, engine: Engine, folder: Path) -> None:
    answers: list[int] = []

    def annotate(size: tuple[int, int]) -> RecipeExecution:
        results = yield [ModelPrompt(REGION, region=(i, i, 60 + i, 50 + i)) for i in range(12)]
        answers.append(len(results))
        return []

    with Engine(engine.checkpoint, EngineConfig(max_batch=2, max_waiting=4)) as small:
        job = label(store, small, folder, annotate)
        assert small.get_stats().rejected > 0
    assert store.get_progress(job) == JobProgress(done=3)
    assert answers == [12] * 3


def test_an_engine_that_closes_ends_the_run_and_not_the_pictures(store: JobStore, engine: Engine, folder: Path) -> None:
    closed = Engine(engine.checkpoint)
    closed.close()
    with pytest.raises(EngineClosedError):
        label(store, closed, folder)
    assert store.get_progress(store.list_jobs()[0]) == JobProgress(waiting=3)


def test_an_adapter_that_is_not_there_is_said_before_anything_is_asked(engine: Engine) -> None:
    with pytest.raises(StoreError, match="needs the adapter project-7, which is not loaded"):
        compute_model_hash(engine, ["project-7"])


def test_an_output_is_one_jobs_until_its_process_ends(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from server.jobs.output_folder import claimed\n"
    code += "with claimed(Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(OutputError, match="another job writes to"), claim_output_folder(tmp_path / "out"):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with claim_output_folder(tmp_path / "out"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written to"), claim_output_folder(tmp_path / "file" / "out"):
        pass
