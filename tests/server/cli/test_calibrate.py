"""`python -m server.cli.calibrate` on the seedling."""

import shutil
from pathlib import Path

import pytest
import typer

from server.cli.calibrate import main
from server.engine.calibration import CALIBRATION_FILE, read_calibration
from server.engine.checkpoints.loading import read_checkpoint
from server.engine.checkpoints.weights import hash_weights


def test_a_checkpoint_is_calibrated_and_other_folders_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(read_checkpoint().folder, folder)
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    main(folder, scenes=8)
    assert "<DENSE_REGION_CAPTION>: error of" in capsys.readouterr().out
    assert read_calibration(folder, hash_weights(folder)) is not None
    before = (folder / CALIBRATION_FILE).read_bytes()
    with pytest.raises(SystemExit, match="nothing was changed"):
        main(folder, scenes=1)
    assert (folder / CALIBRATION_FILE).read_bytes() == before
    with pytest.raises(SystemExit, match="there is no dataset"):
        main(folder, tmp_path / "none")
    with pytest.raises(typer.BadParameter, match=r"has no config\.json"):
        main(tmp_path / "none")
