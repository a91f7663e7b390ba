"""What an export does with the images: copies, links or neither, and their addresses on a server."""

import urllib.parse
from dataclasses import dataclass
from enum import StrEnum

# Label Studio takes what follows the bucket as the name of the object, without decoding it.
_BUCKETS = ("s3://", "gs://", "azure-blob://")


class ImagePlacement(StrEnum):
    """How the images are in a dataset. `ExportFolder.link` says what kinds of links there are."""

    COPY = "copy"
    LINK = "link"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """The images of one export. `url_prefix` is what the address of each image begins with; None: no addresses."""

    placement: ImagePlacement = ImagePlacement.NONE
    url_prefix: str | None = None

    @property
    def are_included(self) -> bool:
        """Whether the dataset has the images, as copies or links."""
        return self.placement is not ImagePlacement.NONE

    def make_url(self, name: str) -> str | None:
        """Returns the address of an image: the prefix and the percent-encoded name; None without a prefix.

        In a bucket (s3://, gs://, azure-blob://) the name is not encoded.
        """
        if self.url_prefix is None or self.url_prefix.lower().startswith(_BUCKETS):
            return None if self.url_prefix is None else self.url_prefix + name
        return self.url_prefix + urllib.parse.quote(name, errors="surrogateescape")
