"""Shared by all writers: the folder that appears when it is complete, the base class, and the report."""
