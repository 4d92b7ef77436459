"""The node `segmentation`: frames of a camera in, panoptic maps out (docs/ros2.md).

One thread receives and keeps the newest frame; another runs the engine. So no frame waits behind an older one.
"""

import array
import json
import math
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from stages.engines import loading, manifest
from stages.foundation import command_line
from stages.media.drawing import Painter
from stages.releases import received
from vistas2engine_ros import messages
from vistas2engine_ros.newest import Newest, is_late

WINDOW = 100
"""Number of last frames whose latency is told."""
POLL_S = 0.2
"""How often the main thread looks whether the engine's thread has failed."""


def _newest_only(reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=reliability, durability=durability)


FRAMES_QOS = _newest_only(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
"""Of the camera's topic, as sensors publish. It also receives from reliable publishers."""
RESULTS_QOS = _newest_only(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
LATCHED_QOS = _newest_only(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)


class SegmentationNode(Node):
    """Subscribes to a camera and publishes the engine's maps."""

    def __init__(self) -> None:
        """Declare the parameters, load the engine and begin.

        Raises ValueError for a parameter out of its range, and as manifest.target_of and loading.load do.
        """
        super().__init__("segmentation")
        self._declare()
        engine = Path(self._value("engine"))
        if not self._value("engine"):
            raise ValueError(
                "parameter engine: name the folder of an engine, such as engine:=/home/me/data/engines/gpu"
            )
        self._max_age_s = _seconds("max_age_s", self._value("max_age_s"))
        self._overlay = self._value("overlay")
        received.check_engine(engine)
        name, target = manifest.target_of(engine)
        self._predictor = loading.load(engine, name, target)
        if self._predictor.cfg.batch_size != 1:
            raise ValueError(
                f"{engine}: an engine for batches of {self._predictor.cfg.batch_size} frames, expected 1: a camera's "
                "frames come one by one; export with deploy.batch_size 1"
            )
        categories = self._predictor.description.categories
        if (last := max(category["id"] for category in categories)) > messages.MAX_MONO8:
            raise ValueError(
                f"{engine}: found {last} classes, expected at most {messages.MAX_MONO8}, for maps in mono8"
            )
        self._painter = Painter(categories)
        self._engine = f"{name}, {self._predictor.engine_sha256[:12]}"

        self._ids = self.create_publisher(Image, "~/segment_ids", RESULTS_QOS)
        self._classes = self.create_publisher(Image, "~/classes", RESULTS_QOS)
        self._drawn = self.create_publisher(Image, "~/overlay", RESULTS_QOS)
        self._segments = self.create_publisher(String, "~/segments", RESULTS_QOS)
        self._categories = self.create_publisher(String, "~/categories", LATCHED_QOS)
        self._categories.publish(String(data=json.dumps(categories)))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

        self._counts = dict.fromkeys(("received", "published", "dropped", "late", "refused"), 0)
        self._counting = threading.Lock()
        self._latencies_ms, self._ages_ms = deque[float](maxlen=WINDOW), deque[float](maxlen=WINDOW)
        self._refusal = ""
        self._told, self._told_at_s = dict(self._counts), time.monotonic()
        self._last_ns: int | None = None
        self.failure: BaseException | None = None
        """What ended the engine's thread; None while it runs."""
        self._newest: Newest[tuple[Any, float]] = Newest()
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

        self.add_on_set_parameters_callback(self._set)
        kind, end = (CompressedImage, "/compressed") if self._value("compressed") else (Image, "")
        self._camera = self.create_subscription(kind, self._value("topic") + end, self._receive, FRAMES_QOS)
        period_s = _seconds("diagnostics_period_s", self._value("diagnostics_period_s"))
        if not period_s:
            raise ValueError("parameter diagnostics_period_s: expected more than 0 seconds, found 0")
        self.create_timer(period_s, self._tell)
        self.get_logger().info(f"engine {self._engine} of {engine}; frames from {self._camera.topic_name}")

    def _declare(self) -> None:
        fixed = {"read_only": True}
        for name, value, about, more in (
            ("engine", "", "folder of an engine, with engine.json", fixed),
            ("topic", "image", "topic of the camera, sensor_msgs/Image", fixed),
            ("compressed", False, "subscribe to TOPIC/compressed, sensor_msgs/CompressedImage", fixed),
            ("overlay", True, "publish the overlay where someone subscribes to it", {}),
            # A launch file's `1` is an integer, where a float is meant.
            ("max_age_s", 0.0, "leave out frames whose stamp is older, in seconds; 0: none", {"dynamic_typing": True}),
            ("diagnostics_period_s", 1.0, "time between diagnostics", {"dynamic_typing": True, **fixed}),
        ):
            self.declare_parameter(name, value, ParameterDescriptor(description=about, **more))

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _set(self, parameters: Any) -> SetParametersResult:
        """Take a new value of a parameter that may change while the node runs."""
        try:
            for parameter in parameters:
                if parameter.name == "max_age_s":
                    _seconds("max_age_s", parameter.value)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        for parameter in parameters:
            if parameter.name == "max_age_s":
                self._max_age_s = float(parameter.value)
            elif parameter.name == "overlay":
                self._overlay = parameter.value
        return SetParametersResult(successful=True)

    def _count(self, name: str) -> None:
        with self._counting:
            self._counts[name] += 1

    def _receive(self, message: Any) -> None:
        self._count("received")
        if self._newest.put((message, time.perf_counter())):
            self._count("dropped")

    def _work(self) -> None:
        """Run the engine on the newest frame, until `close`. Runs in a thread."""
        try:
            while (taken := self._newest.take()) is not None:
                self._process(*taken)
        except Exception as error:
            # A signal ends the context while a frame is in work; what it publishes then fails.
            if self.context.ok():
                self.failure = error

    def _process(self, message: Any, arrived_s: float) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        if is_late(stamp_ns, self._last_ns, self.get_clock().now().nanoseconds, self._max_age_s):
            self._count("late")
            return
        try:
            if isinstance(message, CompressedImage):
                rgb = messages.compressed_picture(message)
            else:
                rgb = messages.picture(message, self._predictor.frame_buffer())
        except ValueError as error:
            self._count("refused")
            self._refusal = str(error)
            self.get_logger().error(f"{self._camera.topic_name}: {error}", throttle_duration_sec=10.0)
            return
        self._predictor.submit([rgb])
        (found,) = self._predictor.result()
        latency_ms = 1000 * (time.perf_counter() - arrived_s)
        header = message.header
        self._ids.publish(_image(header, messages.segment_ids(found), "mono16"))
        self._classes.publish(_image(header, messages.classes(found), "mono8"))
        text = messages.segments_json(header, found, self._painter.categories, latency_ms)
        self._segments.publish(String(data=text))
        if self._overlay and self._drawn.get_subscription_count():
            self._drawn.publish(_image(header, self._painter.overlay(rgb, found), "rgb8"))
        self._last_ns = stamp_ns
        with self._counting:
            self._latencies_ms.append(latency_ms)
            self._ages_ms.append((self.get_clock().now().nanoseconds - stamp_ns) / 1e6)
            self._counts["published"] += 1

    def _tell(self) -> None:
        """Publish the diagnostics."""
        with self._counting:
            counts = dict(self._counts)
            latencies_ms, ages_ms = list(self._latencies_ms), list(self._ages_ms)
        now_s = time.monotonic()
        new = {name: counts[name] - self._told[name] for name in counts}
        rate = new["published"] / (now_s - self._told_at_s)
        self._told, self._told_at_s = counts, now_s
        level, text = DiagnosticStatus.OK, f"{rate:.1f} Hz"
        if new["refused"]:
            level, text = DiagnosticStatus.ERROR, self._refusal
        elif not new["received"]:
            level, text = DiagnosticStatus.WARN, f"no frame on {self._camera.topic_name}"
        elif new["late"] and not new["published"]:
            level, text = DiagnosticStatus.WARN, "all frames are late: compare the clocks, or raise max_age_s"
        values = {"engine": self._engine, "rate_hz": f"{rate:.2f}", **{name: str(counts[name]) for name in counts}}
        for name, found in (("latency", latencies_ms), ("age", ages_ms)):
            for percent in (50, 99):
                values[f"{name}_p{percent}_ms"] = f"{np.percentile(found, percent):.2f}" if found else "nan"
        status = DiagnosticStatus(
            level=level, name=f"{self.get_fully_qualified_name()}: frames", message=text, hardware_id=self._engine,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )  # fmt: skip
        answer = DiagnosticArray(status=[status])
        answer.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(answer)

    def close(self) -> None:
        """End the engine's thread after the frame that is in work."""
        self._newest.close()
        self._worker.join()


def _image(header: Any, pixels: Any, encoding: str) -> Image:
    # rclpy checks each byte of other types of data, which takes seconds for a picture.
    return Image(data=array.array("B", pixels.tobytes()), **messages.image_fields(header, pixels, encoding))


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"parameter {name}: expected seconds, 0 or more, found {value!r}")
    return float(value)


def run(arguments: "list[str]") -> int:
    """Run the node until SIGINT or SIGTERM; return the exit status: 1 after an error, told in one line."""
    node = None
    try:
        rclpy.init(args=arguments)
        node = SegmentationNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while rclpy.ok() and node.failure is None:
            executor.spin_once(timeout_sec=POLL_S)
        if node.failure is not None:
            raise node.failure
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except command_line.BUGS:
        raise
    except (*command_line.USER_ERRORS, ParameterException) as error:
        print(command_line.message(error), file=sys.stderr)
        return 1
    finally:
        if node is not None:
            if hasattr(node, "_worker"):
                node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
