"""Batch labeling: pictures and a recipe in, a dataset out."""
