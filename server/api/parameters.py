"""Path and query parameters that several resources share."""

from typing import Annotated

from fastapi import Path, Query

MAX_ID = 2**63 - 1  # the largest integer of the databases

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
