"""`florist`, as it is typed."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from prompts.tasks import TASKS
from server.api import examples
from server.cli.main import app
from server.settings import Settings, variable
from tests.server.engine.tiny import save, save_adapter, tiny_model


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

    (tmp_path / "in").mkdir()
    out, asked = tmp_path / "out", picture.rename(tmp_path / "in" / picture.name).parent
    command = "--task", "<CAPTION>", "--out", out, "--format", "jsonl", "--model", base, "--adapter", folder
    ended = run("label", asked, *command)
    assert ended.exit_code == 0, ended.stderr
    (label,) = json.loads((out / "labels.jsonl").read_text())["labels"]
    assert label["annotation"]["label"] == said[1]["annotations"][0]["label"]
    assert label["adapter"] == hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("command", ["prompt", "label"])
def test_an_adapter_that_cannot_be_used(model_name: str, picture: Path, tmp_path: Path, command: str) -> None:
    rest = [picture, "<OD>"] if command == "prompt" else [picture, "--task", "<OD>", "--out", tmp_path / "out"]
    ended = run(command, *rest, "--model", model_name, "--adapter", tmp_path / "none")
    assert ended.exit_code == 2
    assert "none cannot be used: there is no adapter_config.json" in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("florist: ")] != []
