"""Evaluation of a model's answers: metrics for each task, and the corrections that a person would have to make."""
