"""Checks of this machine and this workspace against the project's requirements. Runs before anything is installed."""
