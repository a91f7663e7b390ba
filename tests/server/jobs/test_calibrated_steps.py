"""Which scores are probabilities: those of the seedling, and of an adapter's tasks that its own calibration has."""

from pathlib import Path

import pytest

from server.engine.calibration import Calibration, TemperatureScale, write_calibration
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs.calibrated_steps import find_uncalibrated_steps
from server.jobs.recipes.parsing import list_builtin_recipes, load_recipe, parse_recipe
from tests.server.engine.tiny import create_tiny_model, save_adapter, save_checkpoint


def test_all_scores_of_the_seedling_are_calibrated(engine: Engine) -> None:
    for name in list_builtin_recipes():
        assert find_uncalibrated_steps(load_recipe(name), engine) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_an_adapter_has_only_its_own_calibration(folder: Path) -> None:
    recipe = parse_recipe("""
        name: x
        review_below: 0.9
        steps:
          - {id: base, task: <OD>}
          - {id: objects, task: <OD>, adapter: mine}
          - {id: words, task: <OCR_WITH_REGION>, adapter: mine}
          - {id: caption, task: <CAPTION>}
          - {id: unreviewed, task: <OD>, review_below: 0}
    """)
    model = save_checkpoint(folder / "model", create_tiny_model())
    adapter = save_adapter(folder / "adapter", target_modules=["k_proj"])
    with Engine.load(EngineConfig(str(model), device="cpu")) as engine:
        loaded = engine.load_adapter("mine", adapter)
        assert find_uncalibrated_steps(recipe, engine) == ["base", "objects", "words"]
        scale = TemperatureScale(temperature=2.0)
        write_calibration(adapter, Calibration(sha256=loaded.sha256, tasks={"<OD>": scale}))
        engine.load_adapter("mine", adapter)
        assert find_uncalibrated_steps(recipe, engine) == ["base", "words"]
