"""The commands of `florist`."""

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from prompts.tasks import TASKS
from server.api.sample_image import draw_sample_image
from server.cli.main import app
from server.engine.adapters.class_list import write_class_list
from server.settings import Settings, get_variable_name
from tests.server.engine.tiny import create_tiny_model, save_adapter, save_checkpoint


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(get_variable_name(name), raising=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ball.png"
    path.write_bytes(draw_sample_image())
    return path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_help_does_not_import_torch() -> None:
    code = "import sys, server.cli.main; sys.exit('torch' in sys.modules or 'fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_models_and_keys_are_printed() -> None:
    tasks = run("tasks")
    assert tasks.exit_code == 0
    assert all(token in tasks.stdout for token in TASKS)
    models = run("models")
    assert models.exit_code == 0
    assert all(name in models.stdout for name in ("seedling", "florence-community/Florence-2-base-ft"))
    key, hashed = (line.split()[1] for line in run("key").stdout.splitlines())
    assert (len(hashed), key.startswith("florist-")) == (64, True)


def test_prompt_prints_and_draws_the_answer(model_name: str, image: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    task = "<REGION_TO_CATEGORY>"
    result = run("prompt", image, task, "--region", "8,22,27,41", "--json", "--draw", drawn, "--model", model_name)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["task"], answer["width"], answer["height"]) == (task, 64, 48)
    assert Image.open(drawn).width == 320
    plain = run("prompt", image, "<OD>", "--model", model_name, "--device", "cpu")
    assert plain.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "<OD>"], "No such file"),
        (["IMAGE", "<OOD>"], "Did you mean <OD>?"),
        (["IMAGE", "everything"], "`florist tasks` lists them"),
        (["IMAGE", "<OD>", "--text", "x"], "takes no text"),
        (["IMAGE", "<CAPTION_TO_PHRASE_GROUNDING>"], "needs text"),
        (["IMAGE", "<REGION_TO_OCR>"], "needs a region"),
        (["IMAGE", "<REGION_TO_OCR>", "--region", "left"], "--region is x1,y1,x2,y2"),
        (["IMAGE", "<REGION_TO_OCR>", "--region", "5,5,1,1"], "inverted"),
        (["IMAGE", "<REGION_TO_OCR>", "--region", "nan,0,1,1"], "inverted"),
        (["BROKEN", "<OD>"], "not an image"),
        (["IMAGE", "<OD>", "--model", "/no/such"], "there is no folder /no/such"),
        (["IMAGE", "<OD>", "--device", "quantum"], "quantum cannot be used"),
        (["IMAGE", "<OD>", "--draw", "/no/such/x.png", "--model", "MODEL"], "/no/such/x.png: No such file"),
        (["IMAGE", "<OD>", "--draw", "x.nonsense", "--model", "MODEL"], "unknown file extension"),
    ],
)
def test_prompt_ends_with_one_line_about_an_error(
    model_name: str, image: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image at all")
    stand_ins = {"IMAGE": str(image), "BROKEN": str(broken), "MODEL": model_name}
    result = run("prompt", *(stand_ins.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert [line for line in result.stderr.splitlines() if line.startswith("florist: ")] != []


def test_an_adapter_from_a_folder_answers(image: Path, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "tiny", create_tiny_model())
    modules = r"model\.language_model\..*(q_proj|v_proj|fc1)"
    folder = save_adapter(tmp_path / "project", target_modules=modules, std=0.2)
    answers = []
    for more in ((), ("--adapter", folder)):
        result = run("prompt", image, "<CAPTION>", "--json", "--model", base, *more)
        assert result.exit_code == 0, result.stderr
        answers.append(json.loads(result.stdout))
    assert [answer["adapter"] for answer in answers] == [None, "project"]
    assert answers[0]["text"] != answers[1]["text"]

    (tmp_path / "in").mkdir()
    out, folder_in = tmp_path / "out", image.rename(tmp_path / "in" / image.name).parent
    command = "--task", "<CAPTION>", "--out", out, "--format", "jsonl", "--model", base, "--adapter", folder
    result = run("label", folder_in, *command)
    assert result.exit_code == 0, result.stderr
    (label,) = json.loads((out / "labels.jsonl").read_text())["labels"]
    assert label["annotation"]["label"] == answers[1]["annotations"][0]["label"]
    assert label["adapter"] == hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_prompt_holds_the_classes_of_an_adapter_and_asks_for_several(image: Path, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "tiny", create_tiny_model())
    write_class_list(save_adapter(tmp_path / "birds", target_modules=".*fc1"), ["wren", "robin"])
    command = "prompt", image, "<OD>", "--json", "--model", base, "--adapter", tmp_path / "birds"
    answers = []
    for more in ((), ("--any-class",)):
        result = run(*command, *more)
        assert result.exit_code == 0, result.stderr
        assert ("held to the 2 classes of adapter birds" in result.stderr) == (not more)
        answers.append(json.loads(result.stdout))
    assert [answer["class_list"] for answer in answers] == [{"origin": "adapter birds", "classes": 2}, None]
    assert {annotation["label"] for annotation in answers[0]["annotations"]} <= {"wren", "robin"}

    search = "prompt", image, "<OPEN_VOCABULARY_DETECTION>", "--json", "--model", base, "--text"
    several, one = (json.loads(run(*search, text).stdout) for text in ("wren, robin", '["wren, robin"]'))
    assert len(several["text"].splitlines()) == 2
    assert {annotation["label"] for annotation in one["annotations"]} <= {"wren, robin"}
    unknown = run("prompt", image, "<DETECT>", "--json", "--model", base)
    assert "did you mean <OD>" in unknown.stderr
    assert json.loads(unknown.stdout)["warnings"] != []


@pytest.mark.parametrize("command", ["prompt", "label"])
def test_an_unusable_adapter_is_reported(model_name: str, image: Path, tmp_path: Path, command: str) -> None:
    rest = [image, "<OD>"] if command == "prompt" else [image, "--task", "<OD>", "--out", tmp_path / "out"]
    result = run(command, *rest, "--model", model_name, "--adapter", tmp_path / "none")
    assert result.exit_code == 2
    assert "none cannot be used: there is no adapter_config.json" in result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith("florist: ")] != []


def test_the_version_is_printed() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"florist {version('florist')}\n")
