"""A job on one page, made to be looked at: what was found, what is doubtful, what failed."""

from server.jobs.summary.summary import About, write

__all__ = ["About", "write"]
