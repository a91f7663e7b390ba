"""Projects: a team's corrections, the models that are fine-tuned on them, and which model answers."""
