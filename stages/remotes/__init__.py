"""The shared remote: its settings, its errors as one line, and the artifacts that it has."""
