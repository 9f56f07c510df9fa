"""From a checkpoint to files that serve, each proved against its source."""
