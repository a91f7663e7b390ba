"""The summary of a job: one HTML page with its annotations, the images to review, samples and failures."""

from server.jobs.summary.summary import SummaryInfo, write_summary

__all__ = ["SummaryInfo", "write_summary"]
