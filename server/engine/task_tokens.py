"""The task tokens that the files of a model name, besides those of the table. Imports no torch.

A fine-tuned model may have tasks of its own, such as `<VQA>`. It reads their tokens as text like any other, so only its
files can tell a task from a word that means nothing to it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from prompts.special_tokens import ADDED_TOKENS, CONTROL_TOKENS
from prompts.tasks import TASK_TOKEN_PATTERN, TASKS

if TYPE_CHECKING:
    from server.engine.engine import Engine

_SUFFIXES = (".json", ".md", ".txt", ".yaml", ".yml")  # configs, model cards and notes
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")  # large; the tokenizer has read them
_MAX_FILE_BYTES = 4 << 20
_KNOWN = frozenset((*TASKS, *ADDED_TOKENS, *CONTROL_TOKENS))


def read_task_tokens(folder: Path, vocabulary: Iterable[str] = ()) -> frozenset[str]:
    """Returns what looks like a task token in the vocabulary and the configs of a checkpoint or an adapter.

    `vocabulary`: the tokens of its tokenizer. Files that cannot be read name nothing.
    """
    found = set(filter(TASK_TOKEN_PATTERN.fullmatch, vocabulary))
    for path in _list_files(folder):
        try:
            if path.stat().st_size <= _MAX_FILE_BYTES:
                found.update(TASK_TOKEN_PATTERN.findall(path.read_text(encoding="utf-8", errors="replace")))
        except OSError:
            continue
    return frozenset(found) - _KNOWN


def find_unknown_tasks(
    engine: "Engine", tokens: Iterable[str], adapters: Iterable[str | None] | None = None
) -> list[str]:
    """Returns the tokens that are neither in the table nor named by the checkpoint or its adapters, each once.

    `adapters`: the names of those that count; None: all that are loaded. See `prompts.tasks.describe_unknown_token`.
    """
    if not (unknown := [token for token in dict.fromkeys(tokens) if token not in TASKS]):
        return []
    names = None if adapters is None else set(adapters)
    loaded = [adapter for adapter in engine.list_adapters() if names is None or adapter.name in names]
    named = engine.checkpoint.task_tokens.union(*(adapter.task_tokens for adapter in loaded))
    return [token for token in unknown if token not in named]


def _list_files(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in paths if path.suffix in _SUFFIXES and path.name not in _TOKENIZER_FILES]
