"""Pictures from wherever they lie: folders, archives, lists, datasets, buckets. Read in place, never unpacked."""

from server.jobs.sources.opening import open_source
from server.jobs.sources.source import ImageErrorKind, SourceImage, SourceImageError, ImageSource, SourceError

__all__ = ["Fault", "LeasedImage", "ItemError", "ImageSource", "SourceError", "open_source"]
