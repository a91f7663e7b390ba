import pytest

from labels.child_environment import make_child_environment


def test_secrets_stay_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORIST_API_KEYS", "secret")
    monkeypatch.setenv("PATH", "/bin")
    environment = make_child_environment(OMP_NUM_THREADS="1")
    assert environment["PATH"] == "/bin"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert "FLORIST_API_KEYS" not in environment
