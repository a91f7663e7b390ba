"""`florist label`, run through the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from seedling.scenes.drawing import draw_scene
from server.api.sample_image import draw_sample_image
from server.cli.main import app
from server.jobs.output_folder import claim_output_folder

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
    assert page.count("<img") >= 2
    assert "file://localhost" in page
    assert "secret" not in page

    (images / "page.jpg").write_bytes(whole.read_bytes())
    again = run_label(*command)
    assert again.exit_code == 1, again.output  # failed images stay failed without --retry
    retried = run_label(*command, "--retry")
    assert retried.exit_code == 0, retried.output
    assert len((out / "labels.jsonl").read_bytes().splitlines()) > len(datasets[0].splitlines())
    datasets[0] = (out / "labels.jsonl").read_bytes()

    recipe.write_text(RECIPE.replace("SCORE", "0.5"))
    refused = run_label(*command)
    assert refused.exit_code == 2
    assert "recipe: step objects: filter.min_score was 0.1, is 0.5" in refused.stderr
    assert f"{out} belongs to a job that was started with other settings" in " ".join(refused.stderr.split())
    assert "another folder (--out)" in " ".join(refused.stderr.split())
    assert (out / "labels.jsonl").read_bytes() == datasets[0]


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
