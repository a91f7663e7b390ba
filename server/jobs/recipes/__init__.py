"""Recipes: which prompts a job sends about each image, and how it filters and verifies the answers.

Nothing here uses the engine, or reads files other than recipes.
"""
