"""Fine-tuning of a model on labeled images."""
