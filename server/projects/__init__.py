"""Micro-models: what a team corrects, the adapters that learn from it, and which of them answers."""
