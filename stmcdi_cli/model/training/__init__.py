"""Training: the loop, its checkpoint, several processes, signals."""
