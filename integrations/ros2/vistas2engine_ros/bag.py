"""Runs an engine on each frame of a recorded bag and writes a bag of its maps. Needs the package rosbags, and no ROS.

    python -m vistas2engine_ros.bag --engine data/engines/cpu --bag drive --topic /camera/image_raw --out maps

Reads bags of ROS 1 and ROS 2; writes one of ROS 2 (sqlite3) with the topics of the node (docs/ros2.md). No frame is
dropped. Frames that can't be read are skipped, named in a warning and counted in the last line.
"""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from stages.engines import loading, manifest
from stages.foundation import command_line, files
from stages.media.drawing import Painter
from stages.releases import received
from vistas2engine_ros import messages

log = logging.getLogger(__name__)

KINDS = {"sensor_msgs/msg/Image": False, "sensor_msgs/msg/CompressedImage": True}
"""Type of a topic of frames -> whether they are compressed."""
PREFIX = "/segmentation"
BAG_VERSION = 9
"""Version of rosbag2's metadata.yaml, that of ROS 2 Jazzy."""


def build(engine: Path, bag: Path, topic: str, out: Path, overlay: bool = False) -> tuple[int, int]:
    """Write the maps of each frame of `topic` to the bag `out`; return the numbers of frames and of skipped ones.

    With `overlay` it has the overlays too. An `out` that an earlier run wrote is replaced when the new one is whole.
    Raises ValueError for another `topic`, for a bag that can't be read, and if no frame could be read.
    """
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    received.check_engine(engine)
    name, target = manifest.target_of(engine)
    predictor = loading.load(engine, name, target)
    painter = Painter(predictor.description.categories)
    store = get_typestore(Stores.ROS2_JAZZY)
    done = skipped = 0
    if not bag.exists():
        raise FileNotFoundError(f"{files.printable(bag)} not found; give --bag the folder of a bag, or a file of ROS 1")
    try:
        reader = AnyReader([bag], default_typestore=store)
        reader.open()
    except AnyReaderError as error:
        raise ValueError(f"{files.printable(bag)} can't be read as a bag ({error})") from error
    with contextlib.closing(reader), files.atomic_write(out, recorded=True) as draft:
        chosen = [c for c in reader.connections if c.topic == topic and c.msgtype in KINDS]
        if not chosen:
            there = [c.topic for c in reader.connections if c.msgtype in KINDS]
            raise ValueError(f"--topic {topic}: not a topic of pictures in {files.printable(bag)}, which has {there}")
        draft.mkdir()
        with Writer(draft / out.name, version=BAG_VERSION) as writer:
            outputs = Outputs(writer, store, overlay)
            outputs.text("categories", json.dumps(predictor.description.categories), reader.start_time)
            for connection, recorded_ns, content in reader.messages(connections=chosen):
                message = reader.deserialize(content, connection.msgtype)
                try:
                    read = messages.compressed_picture if KINDS[connection.msgtype] else messages.picture
                    rgb = read(message)
                except ValueError as error:
                    log.warning("%s, frame %d: %s", topic, done + skipped, error)
                    skipped += 1
                    continue
                (found,) = predictor.segments([rgb])
                stamp = message.header.stamp
                header = outputs.header(stamp.sec, stamp.nanosec, message.header.frame_id)
                outputs.image("segment_ids", header, messages.segment_ids(found), "mono16", recorded_ns)
                outputs.image("classes", header, messages.classes(found), "mono8", recorded_ns)
                outputs.text("segments", messages.segments_json(header, found, painter.categories), recorded_ns)
                if overlay:
                    outputs.image("overlay", header, painter.overlay(rgb, found), "rgb8", recorded_ns)
                done += 1
        # The names inside a bag are those of its folder.
        for path in (draft / out.name).iterdir():
            path.rename(draft / path.name)
        (draft / out.name).rmdir()
        if not done:
            raise ValueError(f"{topic}: no frame could be read of {skipped}; {files.printable(out)} is as it was")
    return done, skipped


class Outputs:
    """The topics of a bag that is being written."""

    def __init__(self, writer: Any, store: Any, overlay: bool) -> None:
        """`writer` and `store` are a Writer and a Typestore of rosbags."""
        self._writer, self._store = writer, store
        kinds = {"categories": "String", "segments": "String", "segment_ids": "Image", "classes": "Image"}
        kinds |= {"overlay": "Image"} if overlay else {}
        self._types = {"String": "std_msgs/msg/String", "Image": "sensor_msgs/msg/Image"}
        self._connections = {
            name: (writer.add_connection(f"{PREFIX}/{name}", self._types[kind], typestore=store), self._types[kind])
            for name, kind in kinds.items()
        }

    def header(self, sec: int, nanosec: int, frame_id: str) -> Any:
        """Return a std_msgs/Header."""
        stamp = self._store.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
        return self._store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)

    def text(self, name: str, text: str, recorded_ns: int) -> None:
        """Write a std_msgs/String."""
        self._write(name, recorded_ns, data=text)

    def image(self, name: str, header: Any, pixels: Any, encoding: str, recorded_ns: int) -> None:
        """Write a sensor_msgs/Image."""
        data = np.frombuffer(pixels.tobytes(), np.uint8)
        self._write(name, recorded_ns, data=data, **messages.image_fields(header, pixels, encoding))

    def _write(self, name: str, recorded_ns: int, **values: Any) -> None:
        connection, kind = self._connections[name]
        content = self._store.serialize_cdr(self._store.types[kind](**values), kind)
        self._writer.write(connection, recorded_ns, content)


def main() -> None:
    """Command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine, such as data/engines/cpu")
    parser.add_argument("--bag", type=Path, required=True, help="folder of a bag, or a file of ROS 1")
    parser.add_argument("--topic", required=True, help="topic of the frames")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new bag")
    parser.add_argument("--overlay", action="store_true", help="write overlays too")
    args = parser.parse_args()
    done, skipped = build(args.engine, args.bag, args.topic, args.out, args.overlay)
    log.info("%d frames, %d skipped; see %s", done, skipped, files.printable(args.out))


if __name__ == "__main__":
    command_line.run(main)
