"""TensorRT's plugin for deformable attention: export writes it into a graph, and an engine needs it."""

from stages import config

NAME = "MultiscaleDeformableAttnPlugin_TRT"
"""Name of the plugin, and of its ONNX node."""
VERSIONS = {config.Variant.onnx_plugin_v1: "1", config.Variant.onnx_plugin_v2: "2"}
"""Variant of the graph -> version of the plugin."""
