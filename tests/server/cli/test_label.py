"""`florist label`, as it is typed."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from seedling.scenes.drawing import draw_scene
from server.api import examples
from server.cli.main import app
from server.jobs.output_folder import claim_output_folder

RECIPE = "name: things\nsteps:\n  - {id: objects, task: <OD>, filter: {score: SCORE}}\n"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLORIST_DATABASE_URL", raising=False)


def label(*arguments: object) -> Result:
    ended = CliRunner().invoke(app, ["label", *map(str, arguments)], env={"COLUMNS": "200", "FLORIST_DEVICE": "cpu"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def test_a_recipe_is_a_job_that_the_same_command_goes_on_with(tmp_path: Path) -> None:
    pictures, out, recipe = tmp_path / "pictures", tmp_path / "out", tmp_path / "things.yaml"
    pictures.mkdir()
    for seed in range(2):
        draw_scene(9000 + seed).image.save(pictures / f"{seed}.png")
    draw_scene(9002).image.save(whole := tmp_path / "whole.png")
    (pictures / "page.jpg").write_bytes(b"<html>".ljust(whole.stat().st_size))
    recipe.write_text(RECIPE.replace("SCORE", "0.1"))
    url = f"file://me:secret@localhost{pictures}"
    command = url, "--recipe", recipe, "--out", out, "--format", "coco", "--format", "jsonl"
    written = []
    for _ in range(2):
        ended = label(*command)
        assert ended.exit_code == 1, ended.output
        assert "page.jpg: this is a web page" in ended.stderr
        written.append((out / "labels.jsonl").read_bytes())
    assert written[0] == written[1]
    assert len(written[0].splitlines()) >= 2
    coco = json.loads((out / "coco/annotations/instances_default.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png"]

    page = (out / "summary.html").read_text()
    assert "page.jpg" in page
    assert page.count("<img") >= 2
    assert "file://localhost" in page
    assert "secret" not in page

    (pictures / "page.jpg").write_bytes(whole.read_bytes())
    left = label(*command)
    assert left.exit_code == 1, left.output  # what was set aside stays there until it is asked for again
    retried = label(*command, "--retry")
    assert retried.exit_code == 0, retried.output
    assert len((out / "labels.jsonl").read_bytes().splitlines()) > len(written[0].splitlines())
    written[0] = (out / "labels.jsonl").read_bytes()

    recipe.write_text(RECIPE.replace("SCORE", "0.5"))
    refused = label(*command)
    assert refused.exit_code == 2
    assert "recipe: step objects: filter.score was 0.1, is 0.5" in refused.stderr
    assert (out / "labels.jsonl").read_bytes() == written[0]


def test_a_task_is_a_recipe_of_one_step(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.png", (60, 40)), ("sub/b.jpg", (41, 60)), ("sub/c.tif", (30, 30))):
        Image.new("RGB", size, "teal").save(folder / name)
    (folder / "cut.png").write_bytes(examples.picture()[:-60])
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    command = folder, "--task", "<OPEN_VOCABULARY_DETECTION>", "--text", "a cat", "--out", out, "--draw"
    for _ in range(2):  # again, over what is there
        ended = label(*command)
        assert ended.exit_code == 1, ended.stderr
        skipped = ended.stderr.split("set aside 2")[1]
        assert "cut.png: the picture" in skipped
        assert "page.jpg: this is a web page" in skipped
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

    other = label(folder, "--task", "<OD>", "--out", out)
    assert other.exit_code == 2
    assert 'step answers: task was "<OPEN_VOCABULARY_DETECTION>", is "<OD>"' in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PICTURES"], "either --task or --recipe"),
        (["PICTURES", "--task", "<OD>", "--recipe", "detect"], "either --task or --recipe"),
        (["PICTURES", "--recipe", "detect", "--text", "cat"], "steps have their own texts"),
        (["PICTURES", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["PICTURES", "--recipe", "detect", "--format", "koko"], "there is no format koko"),
        (["EMPTY", "--recipe", "detect"], "no pictures"),
        (["EMPTY", "--task", "<OD>"], "there are no pictures"),
        (["nowhere", "--task", "<OD>"], "there is no nowhere"),
        (["PICTURES", "--task", "<OOD>"], "Did you mean <OD>?"),
        (["PICTURES", "--task", "<OD>", "--text", "cat"], "takes no text"),
        (["PICTURES", "--task", "<OPEN_VOCABULARY_DETECTION>"], "needs text"),
        (["PICTURES", "--task", "<OPEN_VOCABULARY_DETECTION>", "--text", "${x}"], "there is no step 'x'"),
        (["PICTURES", "--task", "<REGION_TO_OCR>"], "use `florist prompt`"),
        (["PICTURES", "--recipe", "detect", "--engine", "ray"], "set FLORIST_DATABASE_URL=postgresql://"),
        (["PICTURES", "--recipe", "detect", "--engine", "ray", "--workers", "16:2"], "got '16:2'"),
        (["PICTURES", "--recipe", "detect", "--workers", "4"], "go with --engine ray"),
        (["PICTURES", "--recipe", "detect", "--adapter", "my/project-7"], "write `adapter: project-7` in those"),
        (["PICTURES", "--recipe", "detect"], "another job writes to"),
    ],
)
def test_a_fault_ends_it_with_one_line_that_says_what_to_do(tmp_path: Path, arguments: list[str], said: str) -> None:
    for name in ("pictures", "empty"):
        (tmp_path / name).mkdir()
    draw_scene(1).image.save(tmp_path / "pictures" / "1.png")
    places = {"PICTURES": str(tmp_path / "pictures"), "EMPTY": str(tmp_path / "empty")}
    with claim_output_folder(tmp_path / "out"):
        ended = label(*(places.get(argument, argument) for argument in arguments), "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.output
