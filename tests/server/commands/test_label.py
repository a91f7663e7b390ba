"""`florist label --recipe`, as it is typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from finetune.datasets.scenes.draw import draw
from server.cli import app
from server.jobs.output import claimed

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
        draw(9000 + seed).image.save(pictures / f"{seed}.png")
    (pictures / "page.jpg").write_bytes(b"<html>")
    recipe.write_text(RECIPE.replace("SCORE", "0.1"))
    command = pictures, "--recipe", recipe, "--out", out, "--format", "coco", "--format", "jsonl"
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

    recipe.write_text(RECIPE.replace("SCORE", "0.5"))
    refused = label(*command)
    assert refused.exit_code == 2
    assert "recipe: step objects: filter.score was 0.1, is 0.5" in refused.stderr
    assert (out / "labels.jsonl").read_bytes() == written[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["PICTURES"], "either --task or --recipe"),
        (["PICTURES", "--task", "<OD>", "--recipe", "detect"], "either --task or --recipe"),
        (["PICTURES", "--recipe", "detect", "--text", "cat"], "steps have their own texts"),
        (["PICTURES", "--recipe", "nowhere.yaml"], "nowhere.yaml"),
        (["PICTURES", "--recipe", "detect", "--format", "koko"], "there is no format koko"),
        (["EMPTY", "--recipe", "detect"], "no pictures"),
        (["PICTURES", "--recipe", "detect"], "another job writes to"),
    ],
)
def test_a_fault_ends_it_with_one_line_that_says_what_to_do(tmp_path: Path, arguments: list[str], said: str) -> None:
    for name in ("pictures", "empty"):
        (tmp_path / name).mkdir()
    draw(1).image.save(tmp_path / "pictures" / "1.png")
    places = {"PICTURES": str(tmp_path / "pictures"), "EMPTY": str(tmp_path / "empty")}
    with claimed(tmp_path / "out"):
        ended = label(*(places.get(argument, argument) for argument in arguments), "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.output
