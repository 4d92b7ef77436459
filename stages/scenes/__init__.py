"""Paints the generated street scenes: a pinhole camera, a canvas, and the objects of a street from far to near."""
