"""ROS 2 node around an engine of vistas2engine, and the same on a recorded bag (docs/ros2.md)."""
