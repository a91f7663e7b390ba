"""What happens to work on a project that is deleted meanwhile."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from server.projects.project_files import ProjectFiles
from server.store.projects.errors import NotFoundError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Project


@contextmanager
def remove_if_deleted(store: ProjectStore, files: ProjectFiles, project: Project) -> Iterator[None]:
    """Raises NotFoundError if the block fails because the project is deleted meanwhile, and removes the files that the
    block has written."""
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        if any(each.folder == project.folder for each in store.list_projects()):
            raise
        shutil.rmtree(files.get_project_folder(project), ignore_errors=True)
        raise NotFoundError(f"project {project.name} was deleted") from None
