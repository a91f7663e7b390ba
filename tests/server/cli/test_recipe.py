"""`florist recipe`, as it is typed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from server.cli.main import app
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe


def run(*arguments: object) -> Result:
    ended = CliRunner().invoke(app, ["recipe", *map(str, arguments)], env={"COLUMNS": "100"})
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


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
  - {id: asked, task: <OPEN_VOCABULARY_DETECTION>, text: "a [b]"}
  - {id: named, task: <OPEN_VOCABULARY_DETECTION>, text: "${ontology}"}
""",
        encoding="utf-8",
    )
    return path


def test_list_has_the_ready_ones() -> None:
    assert all(name in run("list").stdout for name in list_builtin_recipes())


@pytest.mark.parametrize("name", list_builtin_recipes())
def test_the_ready_ones_are_right_and_drawn(name: str) -> None:
    assert load_recipe(name).hash[:12] in run("check", name).stdout
    shown = run("show", name).stdout
    assert all(f"{step.id}  {step.task}" in shown for step in load_recipe(name).steps)


def test_show_draws_what_feeds_what(path: Path) -> None:
    lines = run("show", path).stdout.splitlines()
    depth = {line.split("  <")[0].split()[-1]: len(line.split("── ")[0]) for line in lines if "  <" in line}
    assert depth["things"] < depth["signs"] < depth["found"]
    assert depth["asked"] == depth["things"]
    shown = " ".join(" ".join(lines).replace("│", " ").split())
    for words in (
        *("odd [red] name", "vehicle ← car, truck", "[blue]", "to review below a score of 0.4", "not kept"),
        *("tiles of 768 px, 20% shared", "agrees with its mirror image at IoU 0.5", "score ≥ 0.1", "nms 0.6"),
        *("each asked back", "for each region of things", "for the words of signs", "adapter mine", "for “a [b]”"),
        "for each phrase of the ontology",
    ):
        assert words in shown, words


def test_faults_are_told_by_line(path: Path) -> None:
    path.write_text("name: x\nsteps:\n  - id: a\n    task: OD\n", encoding="utf-8")
    for command in ("check", "show"):
        ended = run(command, path)
        assert ended.exit_code == 2
        assert f"{path}:4:11: no such task: 'OD'. Did you mean <OD>?" in ended.stderr
    assert "did you mean detect?" in run("show", "detct").stderr
