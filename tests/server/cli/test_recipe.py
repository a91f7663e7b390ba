"""`florist recipe`, run through the command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli.main import app
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe


def run_recipe_command(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["recipe", *map(str, arguments)], env={"COLUMNS": "100"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "odd [bold] name.yaml"
    path.write_text(
        """\
name: odd [red] name
ontology: {vehicle: [car, truck], "[blue]": }
review_below: 0.4
steps:
  - {id: things, task: <OD>, tile: {size: 768}, flip: 0.5, check: true, filter: {min_score: 0.1, nms: 0.6}}
  - {id: signs, task: <OCR_WITH_REGION>, for_each: things, keep: no}
  - {id: found, task: <OPEN_VOCABULARY_DETECTION>, text: "${signs}", adapter: mine}
  - {id: literal, task: <OPEN_VOCABULARY_DETECTION>, text: "a [b]"}
  - {id: named, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}"}
""",
        encoding="utf-8",
    )
    return path


def test_list_has_the_built_in_recipes() -> None:
    assert all(name in run_recipe_command("list").stdout for name in list_builtin_recipes())


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_check_and_show_accept_the_built_in_recipes(name: str) -> None:
    assert load_recipe(name).hash[:12] in run_recipe_command("check", name).stdout
    shown = run_recipe_command("show", name).stdout
    assert all(f"{step.id}  {step.task}" in shown for step in load_recipe(name).steps)


def test_show_nests_steps_below_their_dependencies(path: Path) -> None:
    lines = run_recipe_command("show", path).stdout.splitlines()
    depth = {line.split("  <")[0].split()[-1]: len(line.split("── ")[0]) for line in lines if "  <" in line}
    assert depth["things"] < depth["signs"] < depth["found"]
    assert depth["literal"] == depth["things"]
    shown = " ".join(" ".join(lines).replace("│", " ").split())
    for words in (
        *("odd [red] name", "vehicle ← car, truck", "[blue]", "review below score 0.4", "not kept"),
        *("tiles of 768 px with 20% overlap", "same in the mirrored image at IoU 0.5", "score ≥ 0.1", "NMS 0.6"),
        *("labels are verified", "for each region of things", "for each text of signs", "adapter mine", "text “a [b]”"),
        "for each phrase of the ontology",
    ):
        assert words in shown, words


def test_problems_are_listed_by_line(path: Path) -> None:
    path.write_text("name: x\nsteps:\n  - id: a\n    task: OD\n", encoding="utf-8")
    for command in ("check", "show"):
        result = run_recipe_command(command, path)
        assert result.exit_code == 2
        assert f"{path}:4:11: no such task: 'OD'. Did you mean <OD>?" in result.stderr
    assert "did you mean detect?" in run_recipe_command("show", "detct").stderr
