"""Kills work at random moments, and counts what is lost, there twice, or wrong afterwards.

`python -m benchmarks.reliability.kills`. `florist label` and `florist convert` are killed and repeated, and must leave
the files of an undisturbed run. `florist serve` is killed while clients send corrections, run a job, fine-tune, upload
an adapter and promote models; after its next start everything that it had acknowledged must be there, once.
"""

import io
import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from benchmarks.mixed_adapters import save_random_adapter
from benchmarks.reliability.scenarios import CommandScenario, Outcome, Scenario
from benchmarks.reliability.served_scenarios import (
    AdapterScenario,
    CorrectionScenario,
    PromotionScenario,
    TuneScenario,
)
from benchmarks.reliability.server import KillableServer
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import save_scenes
from labels.formats import FORMATS
from labels.image_files import ImageBytes
from labels.labeled_image import LabeledImage
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING

SHARES = {"label": 0.2, "serve": 0.2, "tune": 0.15, "export": 0.15, "adapter": 0.15, "promote": 0.15}
IMAGES = 24  # of the jobs
DATASET_IMAGES, BOXES = 300, 40


def split_kills(kills: int) -> dict[str, int]:
    """Returns the number of kills for each kind of work. They add up to `kills`."""
    counts = {name: int(kills * share) for name, share in SHARES.items()}
    counts["serve"] += kills - sum(counts.values())
    return counts


def run_scenarios(folder: Path, counts: dict[str, int], seed: int) -> list[tuple[str, Outcome]]:
    """Runs all scenarios, with their data in `folder`, and returns what each found."""
    images = folder / "images"
    images.mkdir()
    save_scenes(images, IMAGES)
    found = []

    def run(scenario: Scenario, kills: int) -> None:
        outcome = scenario.run(kills, random.Random(f"{seed} {scenario.name}"))
        print(f"{scenario.name}: {outcome}", flush=True)
        found.append((scenario.name, outcome))

    label = CommandScenario(
        "label", folder,
        lambda out: ["label", str(images), "--recipe", "detect", "--out", str(out), "--format", "yolo-detect"],
    )  # fmt: skip
    run(label, counts["label"])
    source = _write_dataset(folder / "dataset")
    run(
        CommandScenario(
            "export", folder,
            lambda out: ["convert", str(source), "--to", "coco", "--out", str(out), "--images", "copy"],
        ),
        counts["export"],
    )  # fmt: skip
    adapters = _save_adapters(folder)
    with KillableServer(_make_folder(folder / "server")) as server:
        served_images = _make_folder(server.folder / "images")
        for path in images.iterdir():
            (served_images / path.name).write_bytes(path.read_bytes())
        run(CorrectionScenario(server, served_images), counts["serve"])
        run(AdapterScenario(server, adapters), counts["adapter"])
        tune = TuneScenario(server, served_images)
        run(tune, counts["tune"])
        models = [model["id"] for model in tune.request("GET", f"/v1/projects/{tune.project}/models")["models"]]
        if len(models) < 2:
            raise RuntimeError("fewer than two runs have made a model; use more kills")
        run(PromotionScenario(server, tune.project, models[:2]), counts["promote"])
    return found


def _make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def _write_dataset(folder: Path) -> Path:
    """Writes a dataset that takes a few seconds to convert."""
    generator = random.Random(0)
    images = []
    for number in range(DATASET_IMAGES):
        file = io.BytesIO()
        Image.effect_noise((320, 240), 40).save(file, "PNG")
        corners = [(generator.uniform(0, 200), generator.uniform(0, 150)) for _ in range(BOXES)]
        boxes = tuple(Box(label=f"thing {i % 7}", box=(x, y, x + 90, y + 60)) for i, (x, y) in enumerate(corners))
        images.append(LabeledImage(f"{number:04}.png", "", 320, 240, boxes, ImageBytes(file.getvalue())))
    FORMATS["coco"].write(images, folder, placement=ImagePlacement.COPY)
    return folder


def _save_adapters(folder: Path) -> list[Path]:
    checkpoint = load_checkpoint(SEEDLING)
    return [save_random_adapter(folder / f"adapter-{seed}", checkpoint, seed) for seed in (1, 2)]


def main(
    kills: Annotated[int, typer.Option(min=20, help="All kills together.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the kills, and what was lost, there twice or wrong."""
    with tempfile.TemporaryDirectory() as name:
        found = run_scenarios(Path(name), split_kills(kills), seed)
    measurements = []
    for scenario, outcome in found:
        note = f"{outcome.lost} lost, {outcome.twice} twice, {outcome.wrong} wrong"
        measurements.append(Measurement("kill -9 at random moments", scenario, outcome.kills, "kills", note=note))
    total = [sum(getattr(outcome, field) for _, outcome in found) for field in ("kills", "lost", "twice", "wrong")]
    note = "{1} lost, {2} twice, {3} wrong".format(*total)
    measurements.append(Measurement("kill -9 at random moments", "all", total[0], "kills", note=note))
    report_measurements("Kills", measurements, out)
    for scenario, outcome in found:
        for detail in outcome.details:
            print(f"{scenario}: {detail}")
    if any(total[1:]):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
