"""What README and docs name exists: commands and their options, modules, make targets, routes, links."""

import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer.main
from click import Group

from labels.formats import FORMATS
from server.app import create_app
from server.cli.main import app
from server.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "examples" / "README.md"])
_FENCE = re.compile(r"```(?:sh|python|console)\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


def read_commands(page: Path) -> list[str]:
    """Returns the lines of code blocks, continued ones joined, and what stands in backticks within the text."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(_FENCE.findall(text)).replace("\\\n", " ")
    return [*blocks.splitlines(), *_INLINE.findall(text)]


def find_unknown_options(command: str) -> list[str]:
    """Returns the subcommand or the options of a `florist …` command that do not exist."""
    group = typer.main.get_command(app)
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # an apostrophe in a comment
        words = command.split()
    words = words[1:]
    if not words or not isinstance(group, Group):
        return []
    subcommand = group.commands.get(words[0]) if not words[0].startswith("-") else group
    if isinstance(subcommand, Group) and subcommand is not group and len(words) > 1:
        subcommand, words = subcommand.commands.get(words[1]), words[1:]
    if subcommand is None:
        return [words[0]]
    known = {"--help"} | {name for each in subcommand.params for name in (*each.opts, *each.secondary_opts)}
    return [word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in known]


@functools.cache
def read_routes() -> list[re.Pattern[str]]:
    """Returns a pattern for each route of the server."""
    paths = create_app(Settings()).openapi()["paths"]
    return [re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for path in paths]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_modules_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in read_commands(page):
        for part in re.split(r" \| | && |; ", command):
            if match := re.match(r"(?:\S*/|FLORIST_\S+ )*(florist [a-z-].*)", part.strip()):
                assert find_unknown_options(match[1].removesuffix("&")) == [], part
        for module in re.findall(r"-m ((?:server|finetune|seedling|benchmarks|labels|prompts)[\w.]*)", command):
            assert importlib.util.find_spec(module), command
        if match := re.match(r"make ([a-z-]+)", command.strip()):
            assert match[1] in targets, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_routes_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("$models", "$project/models")
    text = re.sub(r"\$(job|run|backtest)\b", "1", text.replace("$project", "/v1/projects/1").replace("$v1", "/v1"))
    for path in re.findall(r"(?<![\w.])(/v1/[\w/{}-]*[\w}])", text):
        filled = re.sub(r"\{\w+\}", "1", path)
        assert any(route.fullmatch(filled) for route in read_routes()), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    """MkDocs checks the links within docs/; this also checks README and the other files of the root."""
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def test_every_dataset_format_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "dataset-formats.md").read_text(encoding="utf-8")
    for name, row in FORMATS.items():
        assert f"| `{name}` |" in page
        assert f"::: {row.read.__module__}\n" in page
