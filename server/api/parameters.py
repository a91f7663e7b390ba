"""Path and query parameters that several resources share."""

import re
from typing import Annotated

from fastapi import Path, Query
from pydantic import AfterValidator, Field

MAX_ID = 2**63 - 1  # the largest integer of the databases
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        shown = f"{name[:60]}…" if len(name) > 60 else name
        raise ValueError(
            "must have 1 to 64 characters: letters from a to z, digits, dots, dashes and underscores, the first one a "
            f"letter or digit; not {shown!r}"
        )
    return name


Name = Annotated[str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{_NAME.pattern}$"})]
"""The name of something that a client creates, such as a project."""

AfterQuery = Annotated[
    int | None, Query(ge=0, le=MAX_ID, description="`next` of the previous page. Leave it out for the first page.")
]
LimitQuery = Annotated[
    int,
    Query(
        ge=1,
        le=1000,
        description="The maximum number of entries on the page. A page of large entries ends earlier, after 8 MB: "
        "there are more as long as `next` is not null.",
    ),
]
JobId = Annotated[int, Path(alias="id", ge=1, le=MAX_ID, description="The ID of the job.")]
ProjectId = Annotated[int, Path(alias="id", ge=1, le=MAX_ID, description="The ID of the project.")]
