"""Projects in the database: corrections, fine-tune runs, models, backtests and promotions."""
