"""Loading by name and path, and what is said of a checkpoint that cannot be loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from server.engine.checkpoints import loading as checkpoints
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from tests.server.engine.tiny import IMAGE_SIDE, create_preprocessor_config, create_tiny_model, create_tokenizer


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_a_checkpoint_knows(tiny: Checkpoint) -> None:
    assert tiny.image_tokens == 2 * 2 + 1
    assert (tiny.max_prompt_tokens, tiny.max_new_tokens) == (96 - 5, 96)
    assert tiny.generation.max_new_tokens == 96  # none saved: as much as the decoder holds
    assert tiny.generation.num_beams == 3
    assert tiny.preprocessor.width == IMAGE_SIDE
    assert tiny.unused_tokens.tolist() == [
        i >= len(tiny.tokenizer) for i in range(tiny.model.config.text_config.vocab_size)
    ]
    assert tiny.vocabulary[tiny.tokenizer.ids["<loc_7>"]].location == 7
    assert tiny.vocabulary[tiny.tokenizer.ids["the"]].text_bytes == b"the"
    assert not tiny.model.training


def test_prompts_begin_and_end(tiny: Checkpoint) -> None:
    ids = tiny.tokenizer.encode_prompt("the <loc_3>é")
    assert ids[0] == 0
    assert ids[-1] == 2
    assert tiny.tokenizer.ids["<loc_3>"] in ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_files_load_as_asked(folder: Path, dtype: torch.dtype) -> None:
    create_tiny_model().half().save_pretrained(folder)
    loaded = load_checkpoint(str(folder), dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert loaded.model.dtype == dtype


def test_the_hash_follows_the_weights(tiny: Checkpoint, folder: Path) -> None:
    assert load_checkpoint(str(folder)).sha256 == tiny.sha256
    other = create_tiny_model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    other.save_pretrained(folder)
    assert load_checkpoint(str(folder)).sha256 != tiny.sha256


def test_newer_processor_files(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": create_preprocessor_config(32)}))
    assert load_checkpoint(str(folder)).preprocessor.width == 32


def test_without_generation_config_the_published_one_holds(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    config = load_checkpoint(str(folder)).generation
    assert (config.num_beams, config.no_repeat_ngram_size, config.forced_bos_token_id) == (3, 3, 0)


def test_settings_that_are_not_followed_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(folder / "generation_config.json", repetition_penalty=1.2, do_sample=True)
    load_checkpoint(str(folder))
    assert "repetition_penalty" in caplog.text
    assert "do_sample" in caplog.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "lacks config.json"),
    "broken config": (lambda f: truncate(f / "config.json"), "is not JSON"),
    "config of another kind": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "another model": (lambda f: edit(f / "config.json", model_type="llama"), "is a llama model"),
    "nonsense config": (
        lambda f: edit(f / "config.json", text_config={"d_model": "x"}),
        "d_model",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
    "cut weights": (lambda f: truncate(f / "model.safetensors"), "may be cut short"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "lacks tokenizer.json"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
    "another tokenizer": (
        lambda f: create_tokenizer(added=("<extra>",)).save(str(f / "tokenizer.json")),
        "does not belong to its model",
    ),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
    "a crop": (lambda f: edit(f / "preprocessor_config.json", do_center_crop=True), "do_center_crop"),
    "a shortest edge": (lambda f: edit(f / "preprocessor_config.json", size={"shortest_edge": 64}), "size must be"),
    "a size too large": (
        lambda f: edit(f / "preprocessor_config.json", size={"height": 768, "width": 768}),
        "makes a grid of 24×24",
    ),
    "beams that mean nothing": (lambda f: edit(f / "generation_config.json", num_beams=0), "num_beams 0"),
    "an adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "holds an adapter"),
}


@pytest.mark.parametrize(("spoil", "said"), SPOILS.values(), ids=SPOILS)
def test_refusals_say_what_is_wrong(folder: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(str(folder))


def test_a_bin_file_runs_no_code(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "owned",))

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_checkpoint(str(folder))
    assert not (folder / "owned").exists()


def test_names_that_are_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_checkpoint(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(str(tmp_path / "file"))

    def raising(error: Exception) -> Callable[..., str]:
        def fetch(*_: object, **__: object) -> str:
            raise error

        return fetch

    monkeypatch.setattr(checkpoints, "snapshot_download", raising(LocalEntryNotFoundError("offline")))
    with pytest.raises(CheckpointError, match="hub cannot be reached"):
        load_checkpoint("microsoft/Florence-2-base")
    gone = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    monkeypatch.setattr(checkpoints, "snapshot_download", raising(gone))
    with pytest.raises(CheckpointError, match="check the name"):
        load_checkpoint("microsoft/Florence-3")


def test_a_hub_id_is_fetched(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(name: str, **patterns: list[str]) -> str:
        asked.append((name, patterns["allow_patterns"]))
        return str(tiny_folder)

    monkeypatch.setattr(checkpoints, "snapshot_download", fetch)
    assert load_checkpoint("florence-community/Florence-2-base").name == "florence-community/Florence-2-base"
    assert asked == [("florence-community/Florence-2-base", ["*.json", "*.safetensors"])]
