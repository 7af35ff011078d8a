"""Times of the running gaze node, from its own diagnostics; used by `benchmarks/gaze.py --launch`."""

from __future__ import annotations

import array
import subprocess
import sys
import time

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory

from attn_robotics.conversions import gaze as messages
from attn_robotics.ros import qos
from attn_robotics.systems.gaze.camera import Camera
from attn_robotics.systems.gaze.faces import draw_face
from attn_robotics.systems.gaze.profile import load_profile
from attn_robotics.systems.gaze.results import Row

JOINT_RATE, FRAME_RATE, START_S = 100.0, 30.0, 60.0


def node_rows(seconds: float, priority: int) -> list[Row]:
    """Run `gaze` in a process of its own beside a head and a grey camera of 640 x 480; rows from its diagnostics."""
    rclpy.init()
    node = rclpy.create_node('gaze_benchmark')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    profile, camera = load_profile(), Camera.from_field_of_view(640, 480, 60.0)
    pixels = np.full((480, 640, 3), 90, np.uint8)
    pixels[100:260, 100:260], pixels[150:280, 380:510] = draw_face(1, 160), draw_face(2, 130)
    joints = node.create_publisher(JointState, 'joint_states', qos.SENSOR)
    images = node.create_publisher(Image, 'image', qos.SENSOR)
    infos = node.create_publisher(CameraInfo, 'camera_info', qos.SENSOR)
    # Grey: 900 kB of colour at 30 Hz are more than DDS's shared memory takes unless it is told to.
    image = Image(height=480, width=640, encoding='mono8', step=640)
    image.data = array.array('B', pixels.mean(axis=2).astype(np.uint8).tobytes())
    image.header.frame_id, pose = 'camera', np.zeros(6)
    told: dict[str, str] = {}

    def stamp() -> object:
        return node.get_clock().now().to_msg()

    def on_trajectory(message: JointTrajectory) -> None:
        pose[:] = messages.from_trajectory(profile, message)[1][-1]

    def on_diagnostics(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == 'gaze: node':
                told.clear()
                told.update({value.key: value.value for value in status.values}, state=status.message)

    def show() -> None:
        image.header.stamp = stamp()
        infos.publish(messages.to_camera_info(camera, image.header.stamp, 'camera'))
        images.publish(image)

    node.create_subscription(JointTrajectory, 'joint_trajectory', on_trajectory, qos.COMMAND)
    node.create_subscription(DiagnosticArray, '/diagnostics', on_diagnostics, qos.STATE)
    node.create_timer(1.0 / JOINT_RATE, lambda: joints.publish(messages.to_joint_state(profile, pose, stamp())))
    node.create_timer(1.0 / FRAME_RATE, show)
    command = [sys.executable, '-m', 'attn_robotics.nodes.gaze', '--ros-args', '-p', f'priority:={priority}']
    process = subprocess.Popen(command)
    try:
        begun, counted = time.monotonic(), None
        while counted is None or time.monotonic() - counted < seconds:
            executor.spin_once(timeout_sec=0.1)
            if counted is None and int(told.get('images searched', 0)) > 30:
                counted = time.monotonic()
            if counted is None and time.monotonic() - begun > START_S:
                raise RuntimeError(f'the gaze node searched no images within {START_S:g} s: {told}')
    finally:
        process.terminate()
        process.wait(10.0)
        node.destroy_node()
        rclpy.shutdown()
    rows = []
    for name, key, target in (
        ('node_loop_jitter_p99_ms/ours', 'control lateness', 2.0),
        ('node_loop_work_p99_ms/ours', 'control work', None),
        ('node_image_to_command_p99_ms/ours', 'image to command', 60.0),
    ):
        p50, p99 = (float(told[f'{key} {part} [ms]']) for part in ('p50', 'p99'))
        rows.append(Row(name, p99, 'ms', 1000, target, True, {'p50': p50, 'priority': float(priority)}))
    return rows
