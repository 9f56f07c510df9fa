"""Network definitions, and nothing else."""
