"""Builders and runtimes of engines, a module for each backend, behind the interface in `interface.py`."""
