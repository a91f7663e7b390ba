"""Recipes: which prompts a job sends about each image, and how it filters and verifies the answers.

This package does not use the engine and reads no files other than recipes.
"""
