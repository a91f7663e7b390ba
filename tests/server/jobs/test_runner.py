"""The runner, with the seedling model and short recipes."""

import itertools
import os
import signal
import subprocess
import sys
import threading
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
from server.jobs import runner
from server.jobs.image_annotator import ImageAnnotator
from server.jobs.model_hash import compute_model_hash
from server.jobs.model_prompts import ModelPrompt, RecipeExecution, RecipeLabels
from server.jobs.output_folder import OutputError, claim_output_folder
from server.jobs.runner import JobFailedError, run_job
from server.jobs.sources import open_source
from server.store import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    Job,
    JobProgress,
    JobSpec,
    JobState,
    LeasedImage,
    StoreError,
    StoreUnavailableError,
)
from server.store.jobs.job_store import JobStore
from server.store.jobs.leases import MAX_ATTEMPTS, JobLeases
from tests.server.engine.ties import record_margins
from tests.server.helpers import ROOT

OD, REGION = TASKS["<OD>"], TASKS["<REGION_TO_CATEGORY>"]


def execute_detection(size: tuple[int, int]) -> RecipeExecution:
    [result] = yield [ModelPrompt(OD)]
    return RecipeLabels([TracedAnnotation(each, "things", raw=result.text) for each in result.annotations])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(3):
        draw_scene(7000 + seed).image.save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as opened:
        yield opened


def add_many_images(folder: Path) -> None:
    """Adds more images than the runner processes at a time."""
    for shade in range(40):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(folder / f"shade {shade:02}.png")


def run(
    store: JobStore,
    engine: Engine,
    folder: Path,
    execute: Callable[[tuple[int, int]], RecipeExecution] = execute_detection,
    on_image: Callable[[CompletedImage | FailedImage], None] = lambda image: None,
) -> Job:
    with open_source(str(folder)) as source:
        spec = JobSpec("out", "{}", "a" * 64, str(folder), source.fingerprint, compute_model_hash(engine))
        job = store.get_or_create_job(spec, source.names)
        return run_job(store, job, engine, source, execute, exclusive=True, on_image=on_image)


def test_an_image_with_several_names_is_processed_once(store: JobStore, engine: Engine, folder: Path) -> None:
    for copy in range(4):
        (folder / f"copy {copy}.png").write_bytes((folder / "1.png").read_bytes())
    before, ended = engine.get_stats().submitted, []
    job = run(store, engine, folder, on_image=ended.append)
    assert job.state is JobState.DONE
    assert engine.get_stats().submitted - before == 3
    labeled = {image.name: image.traces for image in store.iter_images(job)}
    assert len(labeled) == len(ended) == 7
    assert all(labeled[f"copy {copy}.png"] == labeled["1.png"] != labeled["0.png"] for copy in range(4))
    assert {trace.model for traces in labeled.values() for trace in traces} == {engine.checkpoint.sha256}
    assert run(store, engine, folder).state is JobState.DONE
    assert engine.get_stats().submitted - before == 3


def test_the_files_in_progress_share_a_budget(
    store: JobStore, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_many_images(folder)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    limit = 2 * max(sizes.values())
    monkeypatch.setattr(runner, "_MAX_FILE_BYTES", limit)
    held, most, lock = 0, 0, threading.Lock()
    annotate = ImageAnnotator.annotate

    def count(annotator: ImageAnnotator, sha256: str, data: bytes) -> ImageAnnotations:
        nonlocal held, most
        with lock:
            held += len(data)
            most = max(most, held)
        try:
            return annotate(annotator, sha256, data)
        finally:
            with lock:
                held -= len(data)

    monkeypatch.setattr(ImageAnnotator, "annotate", count)
    assert run(store, engine, folder).state is JobState.DONE
    assert 0 < most <= limit


def test_the_engine_sees_crops_and_mirrored_images(store: JobStore, engine: Engine, folder: Path) -> None:
    """The job's prompts share batches, and the expected ones run alone: their answers are equal but for ties."""
    crop = (10, 20, 200, 180)

    def execute(size: tuple[int, int]) -> RecipeExecution:
        results = yield [
            ModelPrompt(OD, crop=crop),
            ModelPrompt(OD, crop=crop, mirrored=True),
            ModelPrompt(OD, mirrored=True),
        ]
        more = yield [ModelPrompt(REGION, region=(0, 0, 50, 40), crop=crop)]
        traces = [TracedAnnotation(a, str(i)) for i, r in enumerate([*results, *more]) for a in r.annotations]
        return RecipeLabels(traces)

    job = run(store, engine, folder, execute)
    ties = answers = 0
    for image in store.iter_images(job):
        whole = Image.open(folder / image.name).convert("RGB")
        part = whole.crop(crop)
        requests = (
            Request(part, OD),
            Request(ImageOps.mirror(part), OD),
            Request(ImageOps.mirror(whole), OD),
            Request(part, REGION, region=(0, 0, 50, 40)),
        )
        for step, request in enumerate(requests):
            with record_margins() as margin:
                expected = engine.submit(request).wait().annotations
            answers, ties = answers + 1, ties + margin.is_tie
            if margin.is_tie:
                continue
            found = [trace.annotation for trace in image.traces if trace.step == str(step)]
            assert [each.label for each in found] == [each.label for each in expected]
            for one, other in zip(found, expected, strict=True):
                assert one.score == pytest.approx(other.score, abs=1e-3)
                assert one.model_copy(update={"score": other.score}) == other
    assert ties < answers / 4


def test_failed_images_do_not_stop_the_job(store: JobStore, engine: Engine, folder: Path) -> None:
    for name, size in (("odd.png", (33, 20)), ("outside.png", (44, 20))):
        Image.new("RGB", size, "teal").save(folder / name)
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "gone.png").symlink_to("nowhere.png")

    def execute(size: tuple[int, int]) -> RecipeExecution:
        if size[0] == 33:
            raise ValueError("out of luck")
        if size[0] == 44:
            yield [ModelPrompt(OD), ModelPrompt(REGION, region=(0, 0, 500, 40))]
        return (yield from execute_detection(size))

    job = run(store, engine, folder, execute)
    failures = {failure.name: failure for failure in store.iter_failures(job)}
    assert job.state is JobState.DONE
    assert store.get_progress(job).done == 3
    assert (failures["odd.png"].kind, failures["odd.png"].reason, failures["odd.png"].attempts) == (
        "model", "out of luck", MAX_ATTEMPTS,
    )  # fmt: skip
    assert (failures["outside.png"].kind, failures["outside.png"].attempts) == ("request", 1)
    assert "reaches outside the image" in failures["outside.png"].reason
    assert (failures["page.jpg"].kind, failures["page.jpg"].reason[:18]) == ("unsupported", "this is a web page")
    assert store.retry_failed(job, "request") == 1
    assert run(store, engine, folder).state is JobState.DONE
    assert store.get_progress(job).done == 4


def test_a_model_that_fails_on_everything_fails_the_job(store: JobStore, engine: Engine, folder: Path) -> None:
    add_many_images(folder)

    def execute(size: tuple[int, int]) -> RecipeExecution:
        raise RuntimeError("the device is lost")

    with pytest.raises(JobFailedError, match="the device is lost"):
        run(store, engine, folder, execute)
    [job] = store.list_jobs()
    assert (job.state, "the device is lost" in job.reason) == (JobState.FAILED, True)
    assert store.get_progress(job).leased == 0
    store.resume(job)
    store.retry_failed(job)
    assert run(store, engine, folder).state is JobState.DONE


@pytest.mark.parametrize("action", ["pause", "cancel"])
def test_pause_and_cancel_stop_the_job(store: JobStore, engine: Engine, folder: Path, action: str) -> None:
    add_many_images(folder)
    ended: list[CompletedImage | FailedImage] = []

    def on_image(image: CompletedImage | FailedImage) -> None:
        if not ended:
            getattr(store, action)(store.list_jobs()[0])
            time.sleep(0.6)  # the runner checks the state twice a second
        ended.append(image)

    job = run(store, engine, folder, on_image=on_image)
    assert job.state is (JobState.PAUSED if action == "pause" else JobState.CANCELLED)
    assert store.get_progress(job) == JobProgress(waiting=43 - len(ended), done=len(ended))
    assert len(ended) < 43
    if action == "pause":
        store.resume(job)
        assert run(store, engine, folder).state is JobState.DONE
        assert store.get_progress(job) == JobProgress(done=43)


def test_an_error_releases_all_leases(store: JobStore, engine: Engine, folder: Path) -> None:
    def on_image(image: CompletedImage | FailedImage) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(store, engine, folder, on_image=on_image)
    progress = store.get_progress(store.list_jobs()[0])
    assert (progress.leased, progress.total) == (0, 3)
    assert run(store, engine, folder).state is JobState.DONE


def test_images_that_end_soon_after_each_other_are_stored_together(
    store: JobStore, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_many_images(folder)
    complete, stored, turns = JobLeases.complete, list[int](), itertools.count(1)

    def count(self: JobLeases, images: Sequence[CompletedImage]) -> set[int]:
        stored.append(len(images))
        return complete(self, images)

    def execute(size: tuple[int, int]) -> RecipeExecution:
        time.sleep(0.02 * next(turns))
        return RecipeLabels([])
        yield

    monkeypatch.setattr(JobLeases, "complete", count)
    assert run(store, engine, folder, execute).state is JobState.DONE
    assert sum(stored) == 43
    assert len(stored) < 43 / 3


def test_images_of_a_lease_whose_response_was_lost_are_labeled(
    store: JobStore, engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_many_images(folder)
    acquire, lost = JobLeases.acquire, list[LeasedImage]()

    def lose_response(self: JobLeases, count: int) -> list[LeasedImage]:
        images = acquire(self, count)
        if not lost and images:
            lost.extend(images)
            raise StoreUnavailableError("the connection broke after the commit")
        return images

    monkeypatch.setattr(JobLeases, "acquire", lose_response)
    job = run(store, engine, folder)
    assert (job.state, len(lost) > 0) == (JobState.DONE, True)
    assert store.get_progress(job) == JobProgress(done=43)


def test_more_prompts_than_the_engine_queues_are_answered(store: JobStore, engine: Engine, folder: Path) -> None:
    answers: list[int] = []

    def execute(size: tuple[int, int]) -> RecipeExecution:
        results = yield [ModelPrompt(REGION, region=(i, i, 60 + i, 50 + i)) for i in range(12)]
        answers.append(len(results))
        return RecipeLabels([])

    with Engine(engine.checkpoint, EngineConfig(max_batch=2, max_waiting=4)) as small:
        job = run(store, small, folder, execute)
        assert small.get_stats().rejected > 0
    assert store.get_progress(job) == JobProgress(done=3)
    assert answers == [12] * 3


def test_a_closed_engine_ends_the_run_but_fails_no_image(store: JobStore, engine: Engine, folder: Path) -> None:
    closed = Engine(engine.checkpoint)
    closed.close()
    with pytest.raises(EngineClosedError):
        run(store, closed, folder)
    assert store.get_progress(store.list_jobs()[0]) == JobProgress(waiting=3)


def test_a_missing_adapter_is_reported_before_any_prompt(engine: Engine) -> None:
    with pytest.raises(StoreError, match="needs the adapter project-7, which is not loaded"):
        compute_model_hash(engine, ["project-7"])


def test_an_output_folder_is_locked_until_its_process_ends(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from server.jobs.output_folder import claim_output_folder\n"
    code += "with claim_output_folder(Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"
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
