import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server import settings
from server.api.auth import digest, new_key
from server.cli.main import app
from server.settings import Settings, SettingsError, option, variable


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def test_every_setting_is_listed_by_serve_help() -> None:
    shown = re.sub(r"[│\s]+", " ", CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "240"}).output)
    for name, field in Settings.model_fields.items():
        assert option(name) in shown
        assert variable(name) in shown
        assert field.description in shown


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": "70000"}, "FLORIST_PORT (--port): Input should be less than or equal to 65535 (got '70000')"),
        ({"dtype": "int4"}, "FLORIST_DTYPE"),
        ({"timeout": "nan"}, "FLORIST_TIMEOUT"),
        ({"max_prompts": "300"}, "max_prompts (300) is more than max_waiting (256)"),
        ({"cors_origins": "example.org"}, "write it like https://labels.example.org"),
        ({"model": ""}, "FLORIST_MODEL"),
    ],
)
def test_what_is_wrong_with_a_setting_is_said(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        settings.load(**given)


def test_a_key_given_instead_of_its_hash_is_not_repeated() -> None:
    key, hashed = new_key()
    with pytest.raises(SettingsError) as error:
        settings.load(api_keys=f"{hashed},{key}")
    assert key not in str(error.value)
    assert "florist key" in str(error.value)


def test_lists_come_with_commas_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_API_KEYS", f"{digest('a').upper()}, {digest('b')},")
    monkeypatch.setenv("FLORIST_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    loaded = settings.load()
    assert loaded.api_keys == (digest("a"), digest("b"))
    assert loaded.cors_origins == ("https://a.example", "http://localhost:3000")


def test_an_empty_folder_of_adapters_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_ADAPTERS_FOLDER", "")
    assert settings.load().adapters_folder is None
    assert settings.load(adapters_folder="adapters").adapters_folder == Path("adapters")


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_PORT", "1234")
    assert settings.load().port == 1234
    assert settings.load(port="80", host=None).port == 80


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--api-keys", "hunter2"], ["--host", "300.1.1.1"]])
def test_serve_ends_on_a_bad_setting_with_one_line(arguments: list[str]) -> None:
    ended = CliRunner().invoke(app, ["serve", *arguments])
    assert ended.exit_code == 2
    assert ended.stderr.startswith("florist: ")
    assert ended.stderr.count("\n") == 1
    assert "hunter2" not in ended.output
