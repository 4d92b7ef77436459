"""Plays the camera and the listener for the tests of the ROS 2 node. Runs in the environment of ROS 2, without pytest.

Usage: ros2_client.py SCENARIO FOLDER. Results go to the folder, as .json and .npz.
"""

import array
import json
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import ListParameters, SetParameters
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

DEADLINE_S = 60.0
OUTPUTS = {"segment_ids": Image, "classes": Image, "overlay": Image, "segments": String}


class Client(Node):
    """Publishes frames and stores what the node answers, by name of the topic."""

    def __init__(self, compressed: bool) -> None:
        super().__init__("client")
        self.got: dict[str, list] = {name: [] for name in [*OUTPUTS, "categories", "diagnostics"]}
        many = QoSProfile(depth=1000)
        for name, kind in OUTPUTS.items():
            self.create_subscription(kind, f"/segmentation/{name}", self.got[name].append, many)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, "/segmentation/categories", self.got["categories"].append, latched)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.got["diagnostics"].append, many)
        kind, topic = (CompressedImage, "/camera/compressed") if compressed else (Image, "/camera")
        self.camera = self.create_publisher(kind, topic, qos_profile_sensor_data)
        self.until(lambda: self.camera.get_subscription_count() and self.got["categories"])
        # The overlay is drawn only for listeners that the node knows of.
        names = [f"/segmentation/{name}" for name in OUTPUTS]
        self.until(lambda: all(self.count_publishers(name) and self.count_subscribers(name) for name in names))

    def until(self, condition, seconds=DEADLINE_S) -> bool:
        """Receive until a condition holds; end the process if it never does."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                if seconds == DEADLINE_S:
                    raise SystemExit(f"timed out; got { {name: len(found) for name, found in self.got.items()} }")
                return False
            rclpy.spin_once(self, timeout_sec=0.05)
        return True

    def send(self, pixels: np.ndarray, encoding: str, stamp_ns: int, padding: int = 0) -> None:
        message = Image(encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
        rows = pixels.reshape(len(pixels), -1)
        message.step = rows.shape[1] + padding
        message.data = array.array("B", np.pad(rows, ((0, 0), (0, padding)), constant_values=255).tobytes())
        self.publish(message, stamp_ns)

    def publish(self, message, stamp_ns: int) -> None:
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        message.header.frame_id = "front_camera"
        self.camera.publish(message)

    def answered(self, stamp_ns: int, send) -> None:
        """Send a frame until all of its answers are there: best effort may lose it."""
        for _ in range(20):
            send()
            if self.until(lambda: all(stamp_ns in self.stamps(name) for name in OUTPUTS), DEADLINE_S / 20):
                return
        raise SystemExit(f"no answer to {stamp_ns}: { {name: self.stamps(name) for name in OUTPUTS} }")

    def stamps(self, name: str) -> list[int]:
        """Stamps of the answers on a topic, in nanoseconds."""
        if name == "segments":
            heads = [json.loads(message.data)["header"]["stamp"] for message in self.got[name]]
            return [head["sec"] * 1_000_000_000 + head["nanosec"] for head in heads]
        heads = [message.header.stamp for message in self.got[name]]
        return [head.sec * 1_000_000_000 + head.nanosec for head in heads]

    def told(self) -> dict[str, str]:
        """The node's newest diagnostics."""
        status = self.got["diagnostics"][-1].status[0]
        level = int.from_bytes(status.level, "big")
        return {item.key: item.value for item in status.values} | {"message": status.message, "level": str(level)}

    def set_parameter(self, name: str, value: ParameterValue) -> bool:
        service = self.create_client(SetParameters, "/segmentation/set_parameters")
        self.until(service.service_is_ready)
        future = service.call_async(SetParameters.Request(parameters=[Parameter(name=name, value=value)]))
        self.until(future.done)
        return future.result().results[0].successful

    def parameters(self) -> list[str]:
        service = self.create_client(ListParameters, "/segmentation/list_parameters")
        self.until(service.service_is_ready)
        future = service.call_async(ListParameters.Request())
        self.until(future.done)
        return list(future.result().result.names)


def pixels_of(message: Image) -> np.ndarray:
    dtype = {"mono16": "<u2", "mono8": "u1", "rgb8": "u1"}[message.encoding]
    shape = (message.height, message.width, *([3] if message.encoding == "rgb8" else []))
    found = np.frombuffer(message.data, dtype).reshape(shape)
    assert message.step * message.height == found.nbytes
    assert not message.is_bigendian
    return found


def save(client: Client, folder: Path, **more: object) -> None:
    maps = {
        f"{name}_{i}": pixels_of(m) for name in OUTPUTS if name != "segments" for i, m in enumerate(client.got[name])
    }
    np.savez(folder / "maps.npz", **maps)
    content = {
        "stamps": {name: client.stamps(name) for name in OUTPUTS},
        "frame_ids": sorted({m.header.frame_id for name in OUTPUTS if name != "segments" for m in client.got[name]}),
        "encodings": {name: sorted({m.encoding for m in client.got[name]}) for name in OUTPUTS if name != "segments"},
        "segments": [json.loads(message.data) for message in client.got["segments"]],
        "categories": json.loads(client.got["categories"][0].data),
        "topics": sorted(name for name, _ in client.get_topic_names_and_types()),
        "parameters": client.parameters(),
        **more,
    }
    (folder / "result.json").write_text(json.dumps(content))


def one_by_one(client: Client, folder: Path) -> None:
    """Send each frame of frames.npz, whose names are NUMBER_ENCODING, and wait for its answer."""
    frames = np.load(folder / "frames.npz")
    begin = time.time_ns()
    for number, name in enumerate(sorted(frames.files)):
        stamp, encoding = begin + number, name.partition("_")[2]
        client.answered(stamp, lambda n=name, e=encoding, s=stamp: client.send(frames[n], e, s, padding=5))
    save(client, folder, begin=begin)


def flood(client: Client, folder: Path) -> None:
    """Send large frames as fast as they can be, and wait for the answer to the last."""
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (1080, 1920, 3), dtype=np.uint8) for _ in range(3)]
    begin, count = time.time_ns(), 120
    for number in range(count):
        client.send(frames[number % 3], "rgb8", begin + number)
    last = begin + count - 1
    client.answered(last, lambda: client.send(frames[(count - 1) % 3], "rgb8", last))
    kinds = ("published", "dropped", "late", "refused")

    def all_counted() -> bool:
        told = client.told()
        return int(told["received"]) == sum(int(told[kind]) for kind in kinds)

    client.got["diagnostics"].clear()
    client.until(lambda: client.got["diagnostics"] and all_counted())
    save_small(client, folder, begin=begin, count=count)


def save_small(client: Client, folder: Path, **more: object) -> None:
    content = {"stamps": {name: client.stamps(name) for name in OUTPUTS}, "told": client.told(), **more}
    (folder / "result.json").write_text(json.dumps(content))


def late(client: Client, folder: Path) -> None:
    """Send frames after newer ones, of a source that began anew, older than max_age_s, and some that can't be read."""
    pixels, second = np.full((48, 64, 3), 200, np.uint8), 1_000_000_000
    now = time.time_ns()
    told: list[dict[str, str]] = []

    def counted(name: str, wanted: int, send) -> None:
        """Send until the node has counted more of a kind: best effort may lose frames."""
        before = int(client.told()[name]) if client.got["diagnostics"] else 0
        for _ in range(20):
            send()
            if client.until(lambda: client.got["diagnostics"] and int(client.told()[name]) >= before + wanted, 3):
                told.append(client.told())
                return
        raise SystemExit(f"not counted as {name}: {client.told()}")

    client.until(lambda: client.got["diagnostics"])
    client.answered(now, lambda: client.send(pixels, "rgb8", now))
    counted("late", 1, lambda: client.send(pixels, "rgb8", now - 5_000_000))
    anew = now - 3600 * second
    client.answered(anew, lambda: client.send(pixels, "rgb8", anew))
    refused = client.set_parameter("max_age_s", ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=-1.0))
    # An integer, as people write it.
    taken = client.set_parameter("max_age_s", ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=10))
    for _ in range(200):
        client.send(pixels, "rgb8", anew + second)
        if client.until(lambda: client.told()["level"] == "1" and int(client.told()["late"]) > 1, 0.1):
            break
    told.append(client.told())
    fresh = time.time_ns()
    client.answered(fresh, lambda: client.send(pixels, "rgb8", fresh))
    counted("refused", 1, lambda: client.send(pixels, "8UC3", time.time_ns()))
    no_overlay = client.set_parameter("overlay", ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False))
    overlays = len(client.got["overlay"])
    dark = time.time_ns()
    client.send(pixels, "rgb8", dark)
    for _ in range(20):
        if client.until(lambda: dark in client.stamps("segments"), 3):
            break
        client.send(pixels, "rgb8", dark)
    client.until(lambda: client.got["diagnostics"][-1].status[0].level == b"\x01")
    told.append(client.told())
    client.set_parameter("max_age_s", ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.0))
    client.set_parameter("overlay", ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=True))
    save_small(
        client, folder, sent=[now, anew, fresh, dark], set=[refused, taken, no_overlay], all_told=told,
        overlays=[overlays, len(client.got["overlay"])],
    )  # fmt: skip


def compressed(client: Client, folder: Path) -> None:
    """Send frame.jpg until it is answered."""
    message = CompressedImage(format="jpeg", data=array.array("B", (folder / "frame.jpg").read_bytes()))
    stamp = time.time_ns()
    client.answered(stamp, lambda: client.publish(message, stamp))
    save(client, folder, begin=stamp)


def replay(client: Client, folder: Path) -> None:
    """Publish the frames of the bag `drive`, and write what the node answers to the bag `answers`."""
    from rosbags.rosbag2 import Reader, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(folder / "drive") as reader:
        for connection, _, content in reader.messages():
            read = store.deserialize_cdr(content, connection.msgtype)
            stamp = read.header.stamp.sec * 1_000_000_000 + read.header.stamp.nanosec
            pixels = read.data.reshape(read.height, read.width, 3)
            client.answered(stamp, lambda p=pixels, e=read.encoding, s=stamp: client.send(p, e, s))
    kind = "sensor_msgs/msg/Image"
    with Writer(folder / "answers", version=9) as writer:
        connection = writer.add_connection("/segmentation/classes", kind, typestore=store)
        for message in client.got["classes"]:
            stamp = message.header.stamp
            head = store.types["std_msgs/msg/Header"](
                stamp=store.types["builtin_interfaces/msg/Time"](sec=stamp.sec, nanosec=stamp.nanosec),
                frame_id=message.header.frame_id,
            )
            image = store.types[kind](
                header=head, height=message.height, width=message.width, encoding=message.encoding, is_bigendian=0,
                step=message.step, data=np.frombuffer(message.data, np.uint8),
            )  # fmt: skip
            writer.write(connection, stamp.sec * 1_000_000_000 + stamp.nanosec, store.serialize_cdr(image, kind))


def make_bag(folder: Path) -> None:
    """Write the bag `drive` of the frames of frames.npz, one every 100 ms, and a frame that can't be read."""
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_typestore

    store, kind = get_typestore(Stores.ROS2_JAZZY), "sensor_msgs/msg/Image"
    frames = np.load(folder / "frames.npz")
    bad = "--bad" in sys.argv
    with Writer(folder / "drive", version=9) as writer:
        connection = writer.add_connection("/front/image_raw", kind, typestore=store)
        for number, name in enumerate(sorted(frames.files)):
            time_ns = 1_700_000_000_000_000_000 + number * 100_000_000
            sec, nanosec = divmod(time_ns, 1_000_000_000)
            pixels, encoding = frames[name], name.partition("_")[2]
            head = store.types["std_msgs/msg/Header"](
                stamp=store.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec), frame_id="front_camera"
            )
            image = store.types[kind](
                header=head, height=pixels.shape[0], width=pixels.shape[1], is_bigendian=0, step=pixels.shape[1] * 3,
                encoding="8UC3" if bad and number == 1 else encoding, data=pixels.ravel(),
            )  # fmt: skip
            writer.write(connection, time_ns, store.serialize_cdr(image, kind))


def main() -> None:
    scenario, folder = sys.argv[1], Path(sys.argv[2])
    if scenario == "make_bag":
        make_bag(folder)
        return
    rclpy.init()
    client = Client(compressed=scenario == "compressed")
    {"one_by_one": one_by_one, "flood": flood, "late": late, "compressed": compressed, "replay": replay}[scenario](
        client, folder
    )
    client.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
