"""`florist`, as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import save, save_adapter, tiny_model
from typer.testing import CliRunner, Result

from prompts.tasks import TASKS
from server.api import examples
from server.cli import app
from server.settings import Settings, variable


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "ball.png"
    path.write_bytes(examples.picture())
    return path


def run(*arguments: object) -> Result:
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, server.cli; sys.exit('torch' in sys.modules or 'fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_and_models_and_keys() -> None:
    tasks = run("tasks")
    assert tasks.exit_code == 0
    assert all(token in tasks.stdout for token in TASKS)
    models = run("models")
    assert models.exit_code == 0
    assert all(name in models.stdout for name in ("seedling", "florence-community/Florence-2-base-ft"))
    key, hashed = (line.split()[1] for line in run("key").stdout.splitlines())
    assert (len(hashed), key.startswith("florist-")) == (64, True)


def test_prompt_answers_and_draws(model_name: str, picture: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    task = "<REGION_TO_CATEGORY>"
    ended = run("prompt", picture, task, "--region", "8,22,27,41", "--json", "--draw", drawn, "--model", model_name)
    assert ended.exit_code == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert (answer["task"], answer["width"], answer["height"]) == (task, 64, 48)
    assert Image.open(drawn).width == 320
    plain = run("prompt", picture, "<OD>", "--model", model_name, "--device", "cpu")
    assert plain.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.png", "<OD>"], "No such file"),
        (["PICTURE", "<OOD>"], "Did you mean <OD>?"),
        (["PICTURE", "everything"], "`florist tasks` lists them"),
        (["PICTURE", "<OD>", "--text", "x"], "takes no text"),
        (["PICTURE", "<CAPTION_TO_PHRASE_GROUNDING>"], "needs text"),
        (["PICTURE", "<REGION_TO_OCR>"], "needs a region"),
        (["PICTURE", "<REGION_TO_OCR>", "--region", "left"], "--region is x1,y1,x2,y2"),
        (["PICTURE", "<REGION_TO_OCR>", "--region", "5,5,1,1"], "inverted"),
        (["PICTURE", "<REGION_TO_OCR>", "--region", "nan,0,1,1"], "inverted"),
        (["BROKEN", "<OD>"], "not a picture"),
        (["PICTURE", "<OD>", "--model", "/no/such"], "there is no folder /no/such"),
        (["PICTURE", "<OD>", "--device", "quantum"], "quantum cannot be used"),
        (["PICTURE", "<OD>", "--draw", "/no/such/x.png", "--model", "MODEL"], "/no/such/x.png: No such file"),
        (["PICTURE", "<OD>", "--draw", "x.nonsense", "--model", "MODEL"], "unknown file extension"),
    ],
)
def test_prompt_ends_on_a_fault_with_one_line(
    model_name: str, picture: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture at all")
    stand_ins = {"PICTURE": str(picture), "BROKEN": str(broken), "MODEL": model_name}
    ended = run("prompt", *(stand_ins.get(argument, argument) for argument in arguments))
    assert ended.exit_code == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.output
    assert [line for line in ended.stderr.splitlines() if line.startswith("florist: ")] != []


def test_label_writes_coco_and_pictures(model_name: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.png", (60, 40)), ("sub/b.jpg", (41, 60)), ("sub/c.tif", (30, 30))):
        Image.new("RGB", size, "teal").save(folder / name)
    (folder / "cut.png").write_bytes(examples.picture()[:-60])
    (folder / "page.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    for _ in range(2):  # again, over what is there
        ended = run("label", folder, "--task", "<OD>", "--out", out, "--model", model_name)
        assert ended.exit_code == 1, ended.stderr
        skipped = ended.stderr.split("skipped 2:")[1]
        assert "cut.png: the picture" in skipped
        assert "page.jpg: this is a web page" in skipped
    coco = json.loads((out / "annotations.json").read_text())
    assert [(i["file_name"], i["width"], i["height"]) for i in coco["images"]] == [
        ("a.png", 60, 40),
        ("sub/b.jpg", 41, 60),
        ("sub/c.tif", 30, 30),
    ]
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert files == ["annotations.json", "pictures/a.png", "pictures/sub/b.jpg", "pictures/sub/c.tif.png"]


def test_label_says_that_all_went_well(model_name: str, picture: Path, tmp_path: Path) -> None:
    arguments = "--task", "<CAPTION>", "--out", tmp_path / "out", "--model", model_name
    assert run("label", picture.parent, *arguments).exit_code == 0
    assert json.loads((tmp_path / "out" / "annotations.json").read_text())["images"][0]["file_name"] == "ball.png"


def test_an_adapter_answers(picture: Path, tmp_path: Path) -> None:
    base = save(tmp_path / "tiny", tiny_model())
    modules = r"model\.language_model\..*(q_proj|v_proj|fc1)"
    folder = save_adapter(tmp_path / "project", target_modules=modules, std=0.2)
    said = []
    for more in ((), ("--adapter", folder)):
        ended = run("prompt", picture, "<CAPTION>", "--json", "--model", base, *more)
        assert ended.exit_code == 0, ended.stderr
        said.append(json.loads(ended.stdout))
    assert [answer["adapter"] for answer in said] == [None, "project"]
    assert said[0]["text"] != said[1]["text"]

    out = tmp_path / "out"
    ended = run("label", picture.parent, "--task", "<CAPTION>", "--out", out, "--model", base, "--adapter", folder)
    assert ended.exit_code == 0, ended.stderr
    coco = json.loads((out / "annotations.json").read_text())
    assert coco["info"]["description"].endswith("with project")
    assert [note["caption"] for note in coco["annotations"]] == [note["label"] for note in said[1]["annotations"]]


@pytest.mark.parametrize("command", ["prompt", "label"])
def test_an_adapter_that_cannot_be_used(model_name: str, picture: Path, tmp_path: Path, command: str) -> None:
    rest = [picture, "<OD>"] if command == "prompt" else [tmp_path, "--task", "<OD>", "--out", tmp_path / "out"]
    ended = run(command, *rest, "--model", model_name, "--adapter", tmp_path / "none")
    assert ended.exit_code == 2
    assert "none cannot be used: there is no adapter_config.json" in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("florist: ")] != []


@pytest.mark.parametrize(
    ("task", "folder", "said"),
    [
        ("<OD>", "missing", "there is no folder"),
        ("<OD>", "empty", "there are no pictures"),
        ("<OOD>", "empty", "Did you mean <OD>?"),
        ("<REGION_TO_OCR>", "empty", "use `florist prompt`"),
    ],
)
def test_label_ends_on_a_fault(tmp_path: Path, task: str, folder: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = run("label", tmp_path / folder, "--task", task, "--out", tmp_path / "out")
    assert ended.exit_code == 2
    assert said in ended.stderr
