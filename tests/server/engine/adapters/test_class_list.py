import json
import shutil

import pytest

from server.engine.adapters.class_list import (
    CLASS_LIST_FILE,
    MAX_CLASS_LIST_BYTES,
    ClassListFileError,
    read_class_list,
    write_class_list,
)
from server.engine.adapters.errors import AdapterError
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.task_tokens import read_task_tokens


def test_a_list_is_read_as_it_was_written(tmp_path):
    write_class_list(tmp_path, ["cactus", " octopus ", "étoile", "cactus"])
    assert read_class_list(tmp_path) == ("cactus", "octopus", "étoile")
    assert [path.name for path in tmp_path.iterdir()] == [CLASS_LIST_FILE]


def test_tasks_of_its_own_are_kept_beside_the_classes(tmp_path):
    write_class_list(tmp_path, [], ["<VQA>", "<OD>"])
    assert read_class_list(tmp_path) == ()
    assert read_task_tokens(tmp_path) == {"<VQA>"}
    assert json.loads((tmp_path / CLASS_LIST_FILE).read_text()) == {"classes": [], "tasks": ["<VQA>"]}


def test_an_empty_list_leaves_no_file(tmp_path):
    write_class_list(tmp_path, ["cactus"])
    write_class_list(tmp_path, [" "])
    assert read_class_list(tmp_path) == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1",
        b"[" * 100_000,
        b'["cat"]',
        b'{"classes": "cat"}',
        b'{"classes": [1]}',
        b'{"labels": ["cat"]}',
        b"\xff\xfe",
        b" " * (MAX_CLASS_LIST_BYTES + 1),
    ],
    ids=repr,
)
def test_a_broken_file_is_named(tmp_path, content):
    (tmp_path / CLASS_LIST_FILE).write_bytes(content)
    with pytest.raises(ClassListFileError, match=f"its {CLASS_LIST_FILE}"):
        read_class_list(tmp_path)


def test_an_adapter_carries_its_list(tiny, folders, tmp_path):
    folder = shutil.copytree(folders["text"], tmp_path / "own")
    write_class_list(folder, ["cactus", "octopus"])
    with Engine(tiny, EngineConfig()) as engine:
        assert engine.load_adapter("own", folder).class_list == ("cactus", "octopus")
        assert engine.load_adapter("other", folders["text"]).class_list == ()
        (folder / CLASS_LIST_FILE).write_text("cactus")
        with pytest.raises(AdapterError, match=CLASS_LIST_FILE):
            engine.load_adapter("own", folder)
        assert [adapter.class_list for adapter in engine.list_adapters()] == [(), ("cactus", "octopus")]
        for name in ("own", "other"):  # the checkpoint is shared by all tests
            engine.unload_adapter(name)
