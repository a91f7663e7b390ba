"""Image sources: folders, archives, lists, datasets and buckets. Images are read in place, never unpacked to disk."""

from server.jobs.sources.opening import open_source
from server.jobs.sources.source import (
    ImageSource,
    SourceError,
    SourceImage,
    SourceImageError,
    SourceImageFault,
)

__all__ = ["ImageSource", "SourceError", "SourceImage", "SourceImageError", "SourceImageFault", "open_source"]
