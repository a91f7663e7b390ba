"""The committed glyphs are complete, unambiguous, licensed and drawable."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seedling.scenes import glyphs
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS

SETS = (*TRAINING_SETS, HOLDOUT_SET)
FOLDER = Path(glyphs.__file__).parent / "glyphs"


def test_there_are_forty_categories() -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 40


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_is_in_most_sets_and_in_the_holdout_set(category: str) -> None:
    assert sum(category in glyphs.load_glyph_set(name) for name in TRAINING_SETS) >= 5
    assert category in glyphs.load_glyph_set(HOLDOUT_SET)


@pytest.mark.parametrize("name", SETS)
def test_no_glyph_is_in_two_categories(name: str) -> None:
    counts = Counter(glyph.name for group in glyphs.load_glyph_set(name).values() for glyph in group)
    assert counts.most_common(1)[0][1] == 1
    assert set(glyphs.load_glyph_set(name)) <= set(CATEGORIES)


@pytest.mark.parametrize("name", SETS)
def test_every_glyph_is_rendered_and_cropped_to_its_alpha(name: str) -> None:
    for group in glyphs.load_glyph_set(name).values():
        for glyph in group:
            alpha = np.asarray(glyphs.render_glyph(glyph).getchannel("A")) > 127
            assert 100 < max(alpha.shape) <= 2 * glyphs.SIDE, glyph.path
            assert all(edge.any() for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])), glyph.path


@pytest.mark.parametrize("name", SETS)
def test_licenses_are_documented(name: str) -> None:
    contents = json.loads((FOLDER / f"{name}.json").read_text())
    licenses = (FOLDER / "LICENSES.md").read_text()
    assert contents["license"] in licenses
    assert contents["source"]
    assert f"`{name}.json`" in licenses


def test_the_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.json")) < 2_500_000
