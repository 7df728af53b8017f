"""What a run stands on: the device, ranks, signals, and checkpoints on disk."""
