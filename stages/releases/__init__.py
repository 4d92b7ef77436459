"""What a release says of itself: its manifest, derived from a commit, its pictures and its model card."""
