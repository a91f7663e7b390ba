"""The summary of a job: one HTML page with its classes, labels, images and failures, and lines for the terminal."""

from server.jobs.summary.summary import SummaryInfo, write_summary

__all__ = ["SummaryInfo", "write_summary"]
