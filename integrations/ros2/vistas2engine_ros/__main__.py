"""Starts the node: `ros2 run vistas2engine_ros segmentation`, or `python -m vistas2engine_ros`."""

import sys


def main() -> int:
    """Run the node until a signal. Returns the exit status: 1 after an error, told in one line."""
    try:
        import stages  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"{error}; put the folder of vistas2engine on PYTHONPATH (docs/ros2.md)", file=sys.stderr)
        return 1
    from vistas2engine_ros import node

    return node.run(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
