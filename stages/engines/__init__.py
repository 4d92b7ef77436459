"""Builders and runtimes of engines, one module each, behind the small interface of `base`."""
