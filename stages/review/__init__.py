"""Compares a change with a commit, for reviews and merges: stale stages, metrics with limits, the merge of dvc.lock."""
