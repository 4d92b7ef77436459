"""What this machine and this workspace have of what the project needs. Runs before anything is installed."""
