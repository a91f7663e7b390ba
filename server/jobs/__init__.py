"""Batch labeling: a recipe applied to every image of a source, and the annotations stored."""
