"""How good a model's answers are: figures by task, and what a person would still have to correct."""
