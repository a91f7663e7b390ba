"""Pictures from wherever they lie: folders, archives, lists, datasets, buckets. Read in place, never unpacked."""

from server.jobs.sources.opening import open_source
from server.jobs.sources.source import Fault, Item, ItemError, Source, SourceError

__all__ = ["Fault", "Item", "ItemError", "Source", "SourceError", "open_source"]
