"""Shared by all readers: documents, checks of labels, and the builder of a dataset."""
