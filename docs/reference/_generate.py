"""A hook of MkDocs: fills the pages of the reference with tables from the code."""

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune.tuning.config import TuneConfig
from labels.formats import FORMATS
from prompts.tasks import TASKS
from server.app import create_app
from server.jobs.recipes.recipe import AnnotationFilter, Recipe, RecipeStep, Tiling
from server.settings import Settings

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads hooks without their folder
from _http_api import escape, render_api  # noqa: E402


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replaces each `<!-- table: NAME -->` by that table, and each `<!-- file: NAME -->` by that file of the root, with
    its links into docs/. MkDocs calls this by its name."""
    markdown = re.sub(r"<!-- table: ([\w ]+) -->", lambda match: TABLES[match[1]](), markdown)
    return re.sub(r"<!-- file: ([\w.]+) -->", lambda match: include_file(match[1]), markdown)


def include_file(name: str) -> str:
    """Returns a Markdown file of the root as a page of docs/."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def list_tasks() -> str:
    """Returns the table of tasks as Markdown."""
    rows = [f"| `{task.token}` | {task.template} | {task.input_kind} | {task.answer_kind} |" for task in TASKS.values()]
    return "\n".join(["| Token | Prompt text | Takes | Returns |", "|---|---|---|---|", *rows])


def list_formats() -> str:
    """Returns the table of dataset formats as Markdown."""
    rows = [f"| `{name}` | {row.title} | {row.recognized_by} |" for name, row in FORMATS.items()]
    return "\n".join(["| Name | Writes | Recognizes |", "|---|---|---|", *rows])


def list_settings() -> str:
    """Returns the settings of the server as Markdown."""
    rows = [
        f"| `--{name.replace('_', '-')}` | `FLORIST_{name.upper()}` | {show_default(field.get_default())} "
        f"| {escape_field(field.description)} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| Option | Variable | Default | Meaning |", "|---|---|---|---|", *rows])


def list_fields(model: type[BaseModel]) -> str:
    """Returns the fields of a pydantic model as Markdown: key, default, limits, meaning."""
    rows = [
        f"| `{name}` | {'required' if field.is_required() else show_default(field.get_default())} "
        f"| {show_limits(field)} | {escape_field(field.description)} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| Key | Default | Limits | Meaning |", "|---|---|---|---|", *rows])


def show_limits(field: FieldInfo) -> str:
    """Returns the lowest and the highest value of a number; empty if it is not limited."""
    words: dict[str, str] = {}
    for limit in field.metadata:
        for name, text in (("ge", "from {}"), ("gt", "above {}"), ("le", "to {}"), ("lt", "below {}")):
            if (value := getattr(limit, name, None)) is not None:
                words[name[0]] = text.format(value)
    return " ".join(words[key] for key in "gl" if key in words)


def show_default(value: Any) -> str:
    """Returns a default value as Markdown; empty for None and for empty collections."""
    if value is None or value in ("", (), {}, []) or isinstance(value, BaseModel):
        return ""
    return f"`{value.value if isinstance(value, StrEnum) else value}`"


def escape_field(text: str | None) -> str:
    """Returns a description that Markdown shows as it is."""
    return escape(text or "").replace("${", "&#36;{")


TABLES: dict[str, Callable[[], str]] = {
    "http api": lambda: render_api(create_app(Settings()).openapi()),
    "tasks": list_tasks,
    "formats": list_formats,
    "settings": list_settings,
    "recipe": lambda: list_fields(Recipe),
    "recipe step": lambda: list_fields(RecipeStep),
    "recipe tile": lambda: list_fields(Tiling),
    "recipe filter": lambda: list_fields(AnnotationFilter),
    "tune": lambda: list_fields(TuneConfig),
}
