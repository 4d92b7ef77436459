"""The ROS 2 package, built by colcon (docs/ros2.md)."""

from setuptools import setup

NAME = "vistas2engine_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/segmentation.launch.yaml"]),
        (f"share/{NAME}/foxglove", ["foxglove/segmentation.json"]),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    description="Panoptic segmentation of a camera's frames by an engine of vistas2engine",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"segmentation = {NAME}.__main__:main"]},
)
