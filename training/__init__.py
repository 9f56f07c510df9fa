"""Data, losses, methods, loops, checkpoints, evaluation and recipes."""
