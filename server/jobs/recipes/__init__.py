"""Recipes: what a job asks about every picture, and what becomes of the answers. No files but recipes, no engine."""
