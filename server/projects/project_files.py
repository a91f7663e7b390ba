"""The layout of the folder of projects::

storage_id              id of the folder, which the database uses to find its projects
project-<hex>/          one project
    images/ab/abc…      corrected images, named by their SHA-256
    runs/<hex>/         one fine-tune run
        request.json    settings and dataset
        outcome.json    result, or the error
        process.log     output of the process
        training/       files of the training loop: log.jsonl, run.json, adapter/ …
    models/<hex>/       the adapter of an AdapterSum
"""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.projects.image_store import ImageStore
from server.store.projects.model_store import RUN_ADAPTER
from server.store.projects.records import ModelVersion, Project, Run

_STORAGE_ID = "storage_id"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of a fine-tune run."""

    path: Path

    @property
    def project(self) -> Path:
        """The folder of the run's project, which may have been moved since the run was created."""
        return self.path.parents[1]

    @property
    def request(self) -> Path:
        return self.path / "request.json"

    @property
    def outcome(self) -> Path:
        return self.path / "outcome.json"

    @property
    def log(self) -> Path:
        return self.path / "process.log"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def training(self) -> Path:
        """The output folder of the training loop."""
        return self.path / "training"

    @property
    def adapter(self) -> Path:
        return self.path / RUN_ADAPTER

    @property
    def images(self) -> ImageStore:
        """The images of the run's project."""
        return ImageStore(self.project / "images")

    def create(self, request: Mapping[str, Any]) -> None:
        """Creates the folder with its request. Raises OSError. Then nothing is left."""
        self.path.mkdir(parents=True)
        try:
            self.request.write_text(json.dumps(request))
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def read_request(self) -> dict[str, Any]:
        """Returns what `create` wrote."""
        return dict(json.loads(self.request.read_text()))


@dataclass(frozen=True, slots=True)
class ProjectFiles:
    """The files of all projects in `folder`, an absolute path."""

    folder: Path

    def read_storage_id(self) -> str:
        """Returns the id of the folder, which stays the same if the folder is moved. Raises OSError."""
        return (self.folder / _STORAGE_ID).read_text().strip()

    def create_storage_id(self) -> str:
        """Returns the id of the folder, and creates it if there is none. Raises OSError."""
        path = self.folder / _STORAGE_ID
        if not path.exists():
            part = self.folder / f"{_STORAGE_ID}.part"
            part.write_text(secrets.token_hex(16))
            part.replace(path)
        return self.read_storage_id()

    def get_project_folder(self, project: Project) -> Path:
        """Returns the folder of a project."""
        return self.folder / project.folder

    def get_image_store(self, project: Project) -> ImageStore:
        """Returns the corrected images of a project."""
        return ImageStore(self.folder / project.folder / "images")

    def get_run_folder(self, project: Project, run: Run) -> RunFolder:
        """Returns the files of a run."""
        return RunFolder(self.folder / project.folder / run.folder)

    def get_adapter_folder(self, project: Project, model: ModelVersion) -> Path:
        """Returns the folder of a model's adapter."""
        return self.folder / project.folder / model.folder
