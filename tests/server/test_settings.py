"""Settings, from the environment and the command line."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.api.auth import create_key, hash_key
from server.cli.main import app
from server.settings import Settings, SettingsError, get_option_name, get_variable_name, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(get_variable_name(name), raising=False)


def test_serve_help_lists_every_setting() -> None:
    shown = re.sub(r"[│\s]+", " ", CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "240"}).output)
    for name, field in Settings.model_fields.items():
        assert get_option_name(name) in shown
        assert get_variable_name(name) in shown
        assert field.description in shown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"port": "70000"}, "FLORIST_PORT (--port): Input should be less than or equal to 65535 (got '70000')"),
        ({"dtype": "int4"}, "FLORIST_DTYPE"),
        ({"request_timeout": "nan"}, "FLORIST_REQUEST_TIMEOUT"),
        ({"max_prompts": "300"}, "max_prompts (300) is more than max_waiting (256)"),
        ({"cors_origins": "example.org"}, "write it like https://labels.example.org"),
        ({"model": ""}, "FLORIST_MODEL"),
    ],
)
def test_an_invalid_setting_is_named(values: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(**values)


def test_a_key_in_place_of_its_hash_is_not_repeated() -> None:
    key, hashed = create_key()
    with pytest.raises(SettingsError) as error:
        load_settings(api_keys=f"{hashed},{key}")
    assert key not in str(error.value)
    assert "florist key" in str(error.value)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_API_KEYS", f"{hash_key('a').upper()}, {hash_key('b')},")
    monkeypatch.setenv("FLORIST_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    loaded = load_settings()
    assert loaded.api_keys == (hash_key("a"), hash_key("b"))
    assert loaded.cors_origins == ("https://a.example", "http://localhost:3000")


def test_an_empty_folder_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_ADAPTERS_FOLDER", "")
    assert load_settings().adapters_folder is None
    assert load_settings(adapters_folder="adapters").adapters_folder == Path("adapters")


def test_an_option_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_PORT", "1234")
    assert load_settings().port == 1234
    assert load_settings(port="80", host=None).port == 80


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--api-keys", "hunter2"], ["--host", "300.1.1.1"]])
def test_serve_ends_with_one_line_about_an_invalid_setting(arguments: list[str]) -> None:
    ended = CliRunner().invoke(app, ["serve", *arguments])
    assert ended.exit_code == 2
    assert ended.stderr.startswith("florist: ")
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.output
