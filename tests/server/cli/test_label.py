"""`florist label`, run through the command line."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from labels.opening import open_dataset
from seedling.scenes.drawing import draw_scene
from server.api.sample_image import draw_sample_image
from server.cli.main import app
from server.jobs.output_folder import claim_output_folder
from tests.labels.formats import ultralytics_rules

RECIPE = "name: things\nsteps:\n  - {id: objects, task: <OD>, filter: {min_score: SCORE}}\n"


@pytest.fixture(autouse=True)
def unset_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLORIST_DATABASE_URL", raising=False)


def run_label(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["label", *map(str, arguments)], env={"COLUMNS": "200", "FLORIST_DEVICE": "cpu"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_same_command_continues_the_job(tmp_path: Path) -> None:
    images, out, recipe = tmp_path / "images", tmp_path / "out", tmp_path / "things.yaml"
    images.mkdir()
    for seed in range(2):
        draw_scene(9000 + seed).image.save(images / f"{seed}.png")
    draw_scene(9002).image.save(whole := tmp_path / "whole.png")
    (images / "page.jpg").write_bytes(b"<html>".ljust(whole.stat().st_size))
    recipe.write_text(RECIPE.replace("SCORE", "0.1"))
    url = f"file://me:secret@localhost{images}"
    command = url, "--recipe", recipe, "--out", out, "--format", "coco", "--format", "jsonl"
    datasets = []
    for _ in range(2):
        result = run_label(*command)
        assert result.exit_code == 1, result.output
        assert "page.jpg: this is a web page" in result.stderr
        datasets.append((out / "labels.jsonl").read_bytes())
    assert datasets[0] == datasets[1]
    assert len(datasets[0].splitlines()) >= 2
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png"]

    page = (out / "summary.html").read_text()
    assert "page.jpg" in page
    assert page.count("data:image/webp") == 2
    assert "file://localhost" in page
    assert "secret" not in page

    retried = run_label(*command, "--retry")
    assert retried.exit_code == 1, retried.output
    (images / "page.jpg").write_bytes(whole.read_bytes())
    fixed = run_label(*command)
    assert fixed.exit_code == 0, fixed.output
    assert len((out / "labels.jsonl").read_bytes().splitlines()) > len(datasets[0].splitlines())


def test_new_changed_and_removed_images(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in ("b", "c", "d"):
        draw_scene(9100 + ord(name)).image.save(images / f"{name}.png")
    command = images, "--task", "<OD>", "--out", out, "--format", "jsonl", "--images", "none"
    assert run_label(*command).exit_code == 0
    first = {name: line for line in read_lines(out) if (name := line["name"])}
    same = run_label(*command)
    assert same.exit_code == 0
    assert "new image" not in same.stderr
    assert read_lines(out) == list(first.values())

    draw_scene(9300).image.save(images / "a.png")
    draw_scene(9301).image.save(images / "c.png")
    os.utime(images / "d.png", (1, 1))
    (images / "b.png").rename(tmp_path / "b.png")
    changed = run_label(*command)
    assert changed.exit_code == 0, changed.stderr
    messages = " ".join(changed.stderr.split())
    assert "1 new image, 0 kept" in messages
    assert "2 images may have changed and will be read again: c.png, d.png" in messages
    assert "1 image no longer in the source, and left out of the datasets; the labels stay in the database: b.png" in (
        messages
    )
    assert "1 changed image labeled again: c.png" in messages
    second = {line["name"]: line for line in read_lines(out)}
    assert list(second) == ["c.png", "d.png", "a.png"]
    assert second["d.png"] == first["d.png"]
    assert second["c.png"] != first["c.png"]

    (tmp_path / "b.png").rename(images / "b.png")
    back = run_label(*command)
    assert "1 new image, 3 kept" in back.stderr
    assert {line["name"]: line for line in read_lines(out)} == second | {"b.png": first["b.png"]}

    other = tmp_path / "other"
    other.mkdir()
    draw_scene(9300).image.save(other / "a.png")
    refused = run_label(other, *command[1:])
    assert refused.exit_code == 2
    assert f"is {other}, which does not have 3 of the job's images: b.png, c.png, d.png" in " ".join(
        refused.stderr.split()
    )
    assert "--relabel" not in refused.stderr


def test_a_changed_recipe_says_what_it_costs_and_relabels(tmp_path: Path) -> None:
    images, out, recipe = tmp_path / "images", tmp_path / "out", tmp_path / "things.yaml"
    images.mkdir()
    for seed in range(3):
        draw_scene(9000 + seed).image.save(images / f"{seed}.png")
    recipe.write_text(RECIPE.replace("min_score: SCORE", "max_count: 9"))
    command = images, "--recipe", recipe, "--out", out, "--format", "jsonl"
    assert run_label(*command).exit_code == 0
    first = (out / "labels.jsonl").read_bytes()

    recipe.write_text(RECIPE.replace("min_score: SCORE", "max_count: 1"))
    refused = run_label(*command)
    assert refused.exit_code == 2
    message = " ".join(refused.stderr.split())
    assert "recipe: step objects: filter.max_count was 9, is 1" in message
    assert f"{out} belongs to a job that was started with other settings" in message
    assert "another folder (--out)" in message
    assert re.search(
        r"Or add --relabel: it labels 3 images again, in about \d+ s at the [\d.]+ images per second", message
    )
    assert (out / "labels.jsonl").read_bytes() == first

    relabeled = run_label(*command, "--relabel")
    assert relabeled.exit_code == 0, relabeled.stderr
    assert "0 new images, 3 to label again; the labels so far stay in the database" in relabeled.stderr
    second = (out / "labels.jsonl").read_bytes()
    assert second != first
    assert [len(line["labels"]) for line in read_lines(out)] == [1, 1, 1]

    recipe.write_text(RECIPE.replace("min_score: SCORE", "max_count: 9"))
    cheap = run_label(*command)
    assert "it labels 0 images again; 3 have labels of these settings already" in " ".join(cheap.stderr.split())
    assert run_label(*command, "--relabel").exit_code == 0
    assert (out / "labels.jsonl").read_bytes() == first


def read_lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def test_a_task_is_a_recipe_with_one_step(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.png", (60, 40)), ("sub/b.jpg", (41, 60)), ("sub/c.tif", (30, 30))):
        Image.new("RGB", size, "teal").save(folder / name)
    (folder / "cut.png").write_bytes(draw_sample_image()[:-60])
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    command = folder, "--task", "<OPEN_VOCABULARY_DETECTION>", "--text", "a cat", "--out", out, "--draw"
    for _ in range(2):  # the second time replaces the first
        result = run_label(*command)
        assert result.exit_code == 1, result.stderr
        failures = result.stderr.split("2 failed (run")[1]
        assert "cut.png: the image" in failures
        assert "page.jpg: this is a web page" in failures
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text())
    assert [(i["file_name"], i["width"], i["height"]) for i in coco["images"]] == [
        ("a.png", 60, 40),
        ("sub/b.jpg", 41, 60),
        ("sub/c.tif", 30, 30),
    ]
    drawn = {path.relative_to(out / "drawn").as_posix(): path for path in out.rglob("drawn/**/*.*g")}
    assert set(drawn) == {"a.png", "sub/b.jpg", "sub/c.tif.png"}
    assert [Image.open(path).format for _, path in sorted(drawn.items())] == ["PNG", "JPEG", "PNG"]
    assert "a cat" in (out / "summary.html").read_text()

    other = run_label(folder, "--task", "<OD>", "--out", out)
    assert other.exit_code == 2
    assert 'step answers: task was "<OPEN_VOCABULARY_DETECTION>", is "<OD>"' in other.stderr


def test_yolo_trains_as_it_is_and_images_may_be_linked(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "images").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "images/a.png", "b c.png"]):
        draw_scene(9000 + seed).image.save(images / name)
    formats = ("--format", "yolo-detect", "--format", "coco", "--format", "jsonl")
    command = (images, "--task", "<OD>", "--out", tmp_path / "out", *formats)
    result = run_label(*command)
    assert result.exit_code == 0, result.output
    assert f"{tmp_path}/out/yolo-detect, with copies of the images" in result.stdout
    assert f"{tmp_path}/out/coco, without the images (--images copy or link puts them in)" in result.stdout
    loaded = dict(ultralytics_rules.load(tmp_path / "out/yolo-detect/data.yaml"))
    assert len(loaded) == 3
    assert sum(map(len, loaded.values())) > 2
    (tmp_path / "out/yolo-detect/labels/train.cache").touch()

    # The same command writes the datasets again, with other images; one file cannot have them.
    refused = run_label(*command, "--images", "link")
    assert (refused.exit_code, "jsonl is one file and cannot contain images" in refused.stderr) == (2, True)
    linked = run_label(*command[:-2], "--format", "label-studio", "--images", "link", "--image-url", "https://x.org/")
    assert linked.exit_code == 0, linked.output
    assert f"{tmp_path}/out/coco, with links to the images" in linked.stdout
    again = dict(ultralytics_rules.load(tmp_path / "out/yolo-detect/data.yaml"))
    assert again == loaded
    assert {path.stat().st_nlink for path in again} == {4}
    assert len(open_dataset(tmp_path / "out/coco").images) == 3
    tasks = json.loads((tmp_path / "out/label-studio/tasks.json").read_text())
    assert tasks[1]["data"]["image"] == "https://x.org/b%20c.png"
    lost = run_label(*command[:-4], "--image-url", "https://x.org/")
    assert "only label-studio, coco have a place for the addresses of images" in lost.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IMAGES"], "either --task or --recipe"),
        (["IMAGES", "--task", "<OD>", "--recipe", "detect"], "either --task or --recipe"),
        (["IMAGES", "--recipe", "detect", "--text", "cat"], "each step has its own text"),
        (["IMAGES", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["IMAGES", "--recipe", "detect", "--format", "koko"], "there is no format koko"),
        (["EMPTY", "--recipe", "detect"], "no images"),
        (["EMPTY", "--task", "<OD>"], "there are no images"),
        (["nowhere", "--task", "<OD>"], "there is no nowhere"),
        (["IMAGES", "--task", "<OOD>"], "Did you mean <OD>?"),
        (["IMAGES", "--task", "<OD>", "--text", "cat"], "takes no text"),
        (["IMAGES", "--task", "<OPEN_VOCABULARY_DETECTION>"], "needs text"),
        (["IMAGES", "--task", "<OPEN_VOCABULARY_DETECTION>", "--text", "${x}"], "there is no step 'x'"),
        (["IMAGES", "--task", "<REGION_TO_OCR>"], "use `florist prompt`"),
        (["IMAGES", "--recipe", "detect", "--engine", "ray"], "set FLORIST_DATABASE_URL=postgresql://"),
        (["IMAGES", "--recipe", "detect", "--engine", "ray", "--workers", "16:2"], "got '16:2'"),
        (["IMAGES", "--recipe", "detect", "--workers", "4"], "belong to --engine ray"),
        (["IMAGES", "--recipe", "detect", "--adapter", "my/project-7"], "add `adapter: project-7` to the steps"),
        (["IMAGES", "--recipe", "detect"], "another job writes to"),
    ],
)
def test_an_error_ends_the_command_with_a_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    for name in ("images", "empty"):
        (tmp_path / name).mkdir()
    draw_scene(1).image.save(tmp_path / "images" / "1.png")
    addresses = {"IMAGES": str(tmp_path / "images"), "EMPTY": str(tmp_path / "empty")}
    with claim_output_folder(tmp_path / "out"):
        result = run_label(*(addresses.get(argument, argument) for argument in arguments), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_review_thresholds_are_told_and_changed_without_asking_again(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for seed in (9400, 9401):
        draw_scene(seed).image.save(images / f"{seed}.png")
    command = images, "--task", "<OD>", "--out", out, "--format", "jsonl", "--images", "none"
    first = run_label(*command, "--review-below", "1")
    assert first.exit_code == 0, first.stderr
    found = re.search(r"to review: (\d+) of \1 labels, in 2 of 2 images\n", first.stdout)
    assert found is not None, first.stdout
    labels = int(found[1])
    assert labels > 1
    assert f"objects: {labels} of {labels} have a score below 1\n" in first.stdout
    assert "not calibrated" not in first.stdout
    second = run_label(*command)
    assert second.exit_code == 0, second.stderr
    messages = " ".join(second.stderr.split())
    assert (
        "other review thresholds: the labels of 2 images are reviewed by them, and no model is asked again" in messages
    )
    assert re.search(rf"objects: \d of {labels} have a score below 0.9\n", second.stdout)
    none = run_label(*command, "--review-below", "0")
    assert none.exit_code == 0, none.stderr
    assert "to review" not in none.stdout


def test_captions_are_not_reviewed_unless_asked(tmp_path: Path) -> None:
    draw_scene(9400).image.save(tmp_path / "a.png")
    command = tmp_path / "*.png", "--task", "<CAPTION>", "--out", tmp_path / "out", "--format", "jsonl"
    assert "to review" not in run_label(*command).stdout
    asked = run_label(*command, "--review-below", "1")
    assert "captions: 1 of 1 have a score below 1\n" in asked.stdout


def test_a_recipe_has_its_own_threshold(tmp_path: Path) -> None:
    result = run_label(tmp_path, "--recipe", "detect", "--out", tmp_path / "out", "--review-below", "0.5")
    assert result.exit_code == 2
    assert "--review-below belongs to --task; a recipe has its own `review_below`" in result.stderr


def test_what_the_ontology_did_not_keep_is_printed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    draw_scene(9000).image.save(tmp_path / "images/0.png")
    recipe = tmp_path / "things.yaml"
    recipe.write_text("name: things\nontology: {unicorn: []}\nsteps: [{id: objects, task: <OD>}]\n")
    command = tmp_path / "images", "--recipe", recipe, "--out", tmp_path / "out", "--format", "jsonl"
    outputs = [run_label(*command), run_label(*command)]  # the second one labels nothing
    for result in outputs:
        assert result.exit_code == 0, result.output
        assert re.search(r"not kept: \d+ labels?, not one of the classes: ", result.stdout)
        assert "never found: 1 of 1 classes: unicorn" in result.stdout
    refused = run_label(tmp_path / "images", "--task", "<CAPTION>", "--any-class", "--out", tmp_path / "other")
    assert refused.exit_code == 2
    assert "no step of <CAPTION> names classes" in refused.stderr
