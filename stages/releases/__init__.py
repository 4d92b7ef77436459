"""Makes the content of a release: the manifest, derived from a commit, pictures and a model card."""
