"""Painter of embedded street scenes: a pinhole camera, a far-to-near canvas, and the things of a street."""
