import json

from server.engine.adapters.class_list import write_class_list
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.task_tokens import find_unknown_tasks, read_task_tokens
from tests.server.engine.tiny import create_tiny_model, save_adapter, save_checkpoint


def test_tokens_are_found_in_the_vocabulary_and_in_configs(tmp_path):
    (tmp_path / "processor_config.json").write_text(json.dumps({"tasks": {"<VQA>": "text", "<OD>": "boxes"}}))
    (tmp_path / "README.md").write_text("Ask with `<DocVQA>`, as in `<DocVQA>what is it?`")
    (tmp_path / "tokenizer.json").write_text('{"<HIDDEN>": 1}')  # its vocabulary is passed in
    (tmp_path / "model.safetensors").write_bytes(b"<WEIGHTS>")
    (tmp_path / "broken.json").write_bytes(b"\xff<BROKEN>\xff")
    (tmp_path / "folder.json").mkdir()
    found = read_task_tokens(tmp_path, ["<TAGS>", "<loc_7>", "<od>", "</s>", "Ġcat", "<OCR>"])
    assert found == {"<VQA>", "<DocVQA>", "<BROKEN>", "<TAGS>"}


def test_a_missing_folder_names_nothing(tmp_path):
    assert read_task_tokens(tmp_path / "missing") == frozenset()


def test_a_checkpoint_and_an_adapter_know_the_tokens_of_their_files(tmp_path):
    folder = save_checkpoint(tmp_path / "base", create_tiny_model())
    adapter = save_adapter(tmp_path / "adapter", target_modules=r".*fc1")
    write_class_list(adapter, [], ["<COUNT>"])
    (folder / "added_tokens.json").write_text('{"<DETECT>": 51290}')
    with Engine.load(EngineConfig(str(folder), device="cpu")) as engine:
        assert "<DETECT>" in engine.checkpoint.task_tokens
        assert "<OD>" not in engine.checkpoint.task_tokens
        assert engine.load_adapter("counter", adapter).task_tokens == {"<COUNT>"}
        asked = ["<VQA>", "<OD>", "<COUNT>", "<DETECT>", "<VQA>"]
        assert find_unknown_tasks(engine, asked) == ["<VQA>"]
        assert find_unknown_tasks(engine, asked, ["counter"]) == ["<VQA>"]
        assert find_unknown_tasks(engine, asked, [None]) == ["<VQA>", "<COUNT>"]
