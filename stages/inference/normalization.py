"""Constants that normalise the network's input: (x / 255 - mean) / std, for RGB in [0, 255]."""

PIXEL_MEAN = [0.485, 0.456, 0.406]
"""ImageNet mean of RGB in [0, 1]; TAO Deploy hard-codes it."""
PIXEL_STD = [0.229, 0.224, 0.225]
"""ImageNet standard deviation of RGB in [0, 1]."""
