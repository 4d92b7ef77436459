"""What a change changes, for reviews and merges: stale stages of dvc.lock, its merge, and metrics with their limits."""
