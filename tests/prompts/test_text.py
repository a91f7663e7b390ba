from prompts.text import truncate


def test_only_a_text_over_the_limit_is_truncated() -> None:
    assert truncate("a" * 60) == "a" * 60
    assert truncate("a" * 61) == "a" * 59 + "…"
    assert truncate("red car", 4) == "red…"
