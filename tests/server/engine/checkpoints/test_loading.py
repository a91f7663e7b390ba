"""Loading checkpoints by name and path, and the errors for those that cannot be loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from server.engine.checkpoints import sources
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from tests.server.engine.tiny import IMAGE_SIDE, create_preprocessor_config, create_tiny_model, create_tokenizer


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_has_its_limits_and_settings(tiny: Checkpoint) -> None:
    assert tiny.image_tokens == 2 * 2 + 1
    assert (tiny.max_prompt_tokens, tiny.max_new_tokens) == (96 - 5, 96)
    assert tiny.generation.max_new_tokens == 96  # not saved: the number of positions
    assert tiny.generation.num_beams == 3
    assert tiny.preprocessor.width == IMAGE_SIDE
    assert tiny.unused_tokens.tolist() == [
        i >= len(tiny.tokenizer) for i in range(tiny.model.config.text_config.vocab_size)
    ]
    assert tiny.vocabulary[tiny.tokenizer.ids["<loc_7>"]].location == 7
    assert tiny.vocabulary[tiny.tokenizer.ids["the"]].text_bytes == b"the"
    assert not tiny.model.training


def test_prompts_have_control_tokens_at_both_ends(tiny: Checkpoint) -> None:
    ids = tiny.tokenizer.encode_prompt("the <loc_3>é")
    assert ids[0] == 0
    assert ids[-1] == 2
    assert tiny.tokenizer.ids["<loc_3>"] in ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_files_load_in_any_dtype(folder: Path, dtype: torch.dtype) -> None:
    create_tiny_model().half().save_pretrained(folder)
    loaded = load_checkpoint(str(folder), dtype=dtype)
    assert {p.dtype for p in loaded.model.parameters()} == {dtype}
    assert loaded.model.dtype == dtype


def test_the_hash_depends_on_the_weights(tiny: Checkpoint, folder: Path) -> None:
    assert load_checkpoint(str(folder)).sha256 == tiny.sha256
    other = create_tiny_model()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    other.save_pretrained(folder)
    assert load_checkpoint(str(folder)).sha256 != tiny.sha256


def test_processor_config_json_is_accepted(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": create_preprocessor_config(32)}))
    assert load_checkpoint(str(folder)).preprocessor.width == 32


def test_the_default_generation_config_is_the_published_one(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    config = load_checkpoint(str(folder)).generation
    assert (config.num_beams, config.no_repeat_ngram_size, config.forced_bos_token_id) == (3, 3, 0)


def test_unsupported_settings_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(folder / "generation_config.json", repetition_penalty=1.2, do_sample=True)
    load_checkpoint(str(folder))
    assert "repetition_penalty" in caplog.text
    assert "do_sample" in caplog.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "lacks config.json"),
    "broken config": (lambda f: truncate(f / "config.json"), "is not JSON"),
    "config of another kind": (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "another model": (lambda f: edit(f / "config.json", model_type="llama"), "is a llama model"),
    "nonsense config": (
        lambda f: edit(f / "config.json", text_config={"d_model": "x"}),
        "d_model",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "contains no weights"),
    "truncated weights": (lambda f: truncate(f / "model.safetensors"), "may be truncated"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "lacks tokenizer.json"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
    "another tokenizer": (
        lambda f: create_tokenizer(added=("<extra>",)).save(str(f / "tokenizer.json")),
        "does not match its model",
    ),
    "no preprocessing": (lambda f: (f / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
    "a crop": (lambda f: edit(f / "preprocessor_config.json", do_center_crop=True), "do_center_crop"),
    "a shortest edge": (lambda f: edit(f / "preprocessor_config.json", size={"shortest_edge": 64}), "size must be"),
    "a size too large": (
        lambda f: edit(f / "preprocessor_config.json", size={"height": 768, "width": 768}),
        "makes a grid of 24×24",
    ),
    "an invalid number of beams": (lambda f: edit(f / "generation_config.json", num_beams=0), "num_beams 0"),
    "an adapter": (lambda f: (f / "config.json").rename(f / "adapter_config.json"), "contains an adapter"),
}


@pytest.mark.parametrize(("damage", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_checkpoint_is_rejected_with_its_reason(
    folder: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=reason):
        load_checkpoint(str(folder))


def test_a_bin_file_runs_no_code(folder: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (folder / "created",))

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_checkpoint(str(folder))
    assert not (folder / "created").exists()


def test_an_unknown_name_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_checkpoint(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file"):
        load_checkpoint(str(tmp_path / "file"))

    def raise_error(error: Exception) -> Callable[..., str]:
        def download(*_: object, **__: object) -> str:
            raise error

        return download

    monkeypatch.setattr(sources, "snapshot_download", raise_error(LocalEntryNotFoundError("offline")))
    with pytest.raises(CheckpointError, match="hub cannot be reached"):
        load_checkpoint("microsoft/Florence-2-base")
    missing = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    monkeypatch.setattr(sources, "snapshot_download", raise_error(missing))
    with pytest.raises(CheckpointError, match="check the name"):
        load_checkpoint("microsoft/Florence-3")


def test_a_hub_id_is_downloaded(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(name: str, **patterns: list[str]) -> str:
        calls.append((name, patterns["allow_patterns"]))
        return str(tiny_folder)

    monkeypatch.setattr(sources, "snapshot_download", download)
    assert load_checkpoint("florence-community/Florence-2-base").name == "florence-community/Florence-2-base"
    assert calls == [("florence-community/Florence-2-base", ["*.json", "*.safetensors"])]
