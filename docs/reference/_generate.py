"""A hook of MkDocs: writes the pages of the reference that come from the code, before the site is built."""

import json
from pathlib import Path
from typing import Any

from prompts.tasks import TASKS
from server.app import create_app
from server.settings import Settings

HERE = Path(__file__).parent


def on_pre_build(config: Any) -> None:
    """Writes the OpenAPI document beside the page that shows it. MkDocs calls this by its name."""
    write(HERE / "openapi.json", json.dumps(create_app(Settings()).openapi(), indent=1))


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Puts the table of tasks in the place of its mark. MkDocs calls this by its name."""
    return markdown.replace("<!-- table of tasks -->", tasks())


def tasks() -> str:
    """The table of tasks as Markdown."""
    rows = [f"| `{task.token}` | {task.words} | {task.input_kind} | {task.answer_kind} |" for task in TASKS.values()]
    return "\n".join(["| Token | Prompt text | Takes | Returns |", "|---|---|---|---|", *rows])


def write(path: Path, text: str) -> None:
    """Writes a file if its contents change, so that `mkdocs serve` does not build for ever."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
