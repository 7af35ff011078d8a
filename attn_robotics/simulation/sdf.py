"""A world as SDF for Gazebo Harmonic, and the configuration of its bridge to ROS.

Same boxes, same robots, same topics as the embedded world. The 4 ms step and the bullet collision detector are what
lets 32 wheeled robots run in real time; DART's own detector is far slower. A plugin whose name is wrong only logs an
error in Gazebo, so `PLUGINS` lists every pair that may appear here, and a test compares.
"""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

import yaml

from attn_robotics.simulation.boxes import Box, boxes
from attn_robotics.simulation.mjcf import SCAN_HEIGHT
from attn_robotics.simulation.robot import RobotModel
from attn_robotics.simulation.world import World

# file name -> class, as Gazebo Harmonic (gz-sim 8) ships them
PLUGINS = {
    'gz-sim-physics-system': 'gz::sim::systems::Physics',
    'gz-sim-user-commands-system': 'gz::sim::systems::UserCommands',
    'gz-sim-scene-broadcaster-system': 'gz::sim::systems::SceneBroadcaster',
    'gz-sim-contact-system': 'gz::sim::systems::Contact',
    'gz-sim-sensors-system': 'gz::sim::systems::Sensors',
    'gz-sim-diff-drive-system': 'gz::sim::systems::DiffDrive',
    'gz-sim-odometry-publisher-system': 'gz::sim::systems::OdometryPublisher',
}
_WORLD_PLUGINS = (
    'gz-sim-physics-system',
    'gz-sim-user-commands-system',
    'gz-sim-scene-broadcaster-system',
    'gz-sim-contact-system',
)


def to_sdf(
    world: World,
    *,
    timestep: float = 0.004,
    odom_frame: str = 'map',
    odom_rate_hz: float = 20.0,
    scan: bool = False,
    beams: int = 180,
    max_range: float = 10.0,
) -> str:
    """Describe a world for Gazebo.

    Args:
        world: what to describe.
        timestep: of the physics [s].
        odom_frame: frame of the robots' odometry, whose poses are in the map's coordinates.
        odom_rate_hz: odometry and tf messages per second and robot.
        scan: give every robot a lidar; needs a GPU or software rendering.
        beams: of the lidar, from -pi in even steps to the left, as `EmbeddedSimulator.scan`.
        max_range: of the lidar [m].
    """
    frame = world.frame
    length, width = frame.width * frame.resolution, frame.height * frame.resolution
    x, y = frame.origin_x + length / 2, frame.origin_y + width / 2
    plugins = [_plugin(name) for name in _WORLD_PLUGINS]
    if scan:
        plugins.append(_plugin('gz-sim-sensors-system', render_engine='ogre2'))
    robots = [
        _robot(
            world.robot, name, start, odom_frame, odom_rate_hz, _lidar(world, name, beams, max_range) if scan else ''
        )
        for name, start in zip(world.names, world.start_xy.tolist(), strict=True)
    ]
    newline = '\n'
    return f"""<?xml version="1.0"?>
<sdf version="1.9">
<world name="{escape(world.name, {'"': '&quot;'})}">
<physics name="bullet_4ms" type="ignored">
  <max_step_size>{timestep:.6g}</max_step_size>
  <real_time_factor>1.0</real_time_factor>
  <dart><collision_detector>bullet</collision_detector></dart>
</physics>
{newline.join(plugins)}
<light name="sun" type="directional">
  <pose>0 0 20 0 0 0</pose><diffuse>0.8 0.8 0.8 1</diffuse><direction>-0.4 0.2 -0.9</direction>
</light>
<model name="floor">
  <static>true</static>
  <pose>{x:.6g} {y:.6g} 0 0 0 0</pose>
  <link name="link">
    <collision name="collision"><geometry><plane><normal>0 0 1</normal></plane></geometry></collision>
    <visual name="visual">
      <geometry><plane><normal>0 0 1</normal><size>{length:.6g} {width:.6g}</size></plane></geometry>
      {_colour('0.9 0.9 0.9')}
    </visual>
  </link>
</model>
<model name="walls">
  <static>true</static>
  <link name="link">
{newline.join(map(_wall, boxes(world)))}
  </link>
</model>
{newline.join(robots)}
</world>
</sdf>
"""


def bridge_config(world: World, *, scan: bool = False, contacts: bool = True) -> str:
    """YAML for `ros_gz_bridge`'s `parameter_bridge`, parameter `config_file`.

    Args:
        world: as given to `to_sdf`.
        scan: bridge the lidars too.
        contacts: bridge the chassis' contact sensors too.
    """
    entries = [
        _bridge('/clock', 'rosgraph_msgs/msg/Clock', 'gz.msgs.Clock'),
        _bridge('/tf', 'tf2_msgs/msg/TFMessage', 'gz.msgs.Pose_V'),
    ]
    for name in world.names:
        entries.append(_bridge(f'/{name}/odom', 'nav_msgs/msg/Odometry', 'gz.msgs.Odometry'))
        entries.append(_bridge(f'/{name}/cmd_vel', 'geometry_msgs/msg/Twist', 'gz.msgs.Twist', 'ROS_TO_GZ'))
        if scan:
            entries.append(_bridge(f'/{name}/scan', 'sensor_msgs/msg/LaserScan', 'gz.msgs.LaserScan'))
        if contacts:
            entries.append(_bridge(f'/{name}/contacts', 'ros_gz_interfaces/msg/Contacts', 'gz.msgs.Contacts'))
    return str(yaml.safe_dump(entries, sort_keys=False))


def _bridge(topic: str, ros_type: str, gz_type: str, direction: str = 'GZ_TO_ROS') -> dict[str, str]:
    return {
        'ros_topic_name': topic,
        'gz_topic_name': topic,
        'ros_type_name': ros_type,
        'gz_type_name': gz_type,
        'direction': direction,
    }


def _plugin(filename: str, **parameters: str | float) -> str:
    text = {key: value if isinstance(value, str) else f'{value:.6g}' for key, value in parameters.items()}
    inside = ''.join(f'<{key}>{value}</{key}>' for key, value in text.items())
    return f'<plugin filename="{filename}" name="{PLUGINS[filename]}">{inside}</plugin>'


def _wall(box: Box) -> str:
    pose = f'<pose>{box.x:.6g} {box.y:.6g} {box.height / 2:.6g} 0 0 0</pose>'
    shape = f'<geometry><box><size>{box.length:.6g} {box.width:.6g} {box.height:.6g}</size></box></geometry>'
    return (
        f'    <collision name="{box.name}">{pose}{shape}</collision>'
        f'<visual name="{box.name}_visual">{pose}{shape}{_colour("0.35 0.35 0.4")}</visual>'
    )


def _colour(rgb: str) -> str:
    return f'<material><ambient>{rgb} 1</ambient><diffuse>{rgb} 1</diffuse></material>'


def _cylinder_inertia(mass: float, radius: float, length: float) -> str:
    side = mass * (3 * radius**2 + length**2) / 12
    axis = mass * radius**2 / 2
    return (
        f'<inertia><ixx>{side:.6g}</ixx><iyy>{side:.6g}</iyy><izz>{axis:.6g}</izz>'
        '<ixy>0</ixy><ixz>0</ixz><iyz>0</iyz></inertia>'
    )


def _robot(robot: RobotModel, name: str, start: list[float], odom_frame: str, odom_rate_hz: float, lidar: str) -> str:
    x, y = start
    length = robot.height - robot.clearance
    middle = robot.clearance + length / 2
    mass = 0.92 * robot.mass
    cylinder = (
        f'<pose>0 0 {middle:.6g} 0 0 0</pose><geometry><cylinder><radius>{robot.radius:.6g}</radius>'
        f'<length>{length:.6g}</length></cylinder></geometry>'
    )
    casters = '\n'.join(
        f'    <collision name="caster_{end}">'
        f'<pose>{at * 0.7 * robot.radius:.6g} 0 {robot.clearance + 0.0005:.6g} 0 0 0</pose>'
        f'<geometry><sphere><radius>{robot.clearance:.6g}</radius></sphere></geometry>'
        '<surface><friction><ode><mu>0</mu><mu2>0</mu2></ode></friction></surface></collision>'
        for end, at in (('front', 1), ('back', -1))
    )
    wheels = '\n'.join(_wheel(robot, side, at) for side, at in (('left', 1), ('right', -1)))
    drive = _plugin(
        'gz-sim-diff-drive-system',
        left_joint='left_joint',
        right_joint='right_joint',
        wheel_separation=robot.wheel_separation,
        wheel_radius=robot.wheel_radius,
        topic=f'/{name}/cmd_vel',
        odom_topic=f'/{name}/wheel_odom',
        tf_topic=f'/{name}/wheel_tf',  # measured from the start: kept off /tf, where the pose in the map goes
        odom_publish_frequency=odom_rate_hz,
        max_linear_velocity=robot.max_speed,
        min_linear_velocity=-robot.max_speed,
        max_linear_acceleration=robot.max_acceleration,
        min_linear_acceleration=-robot.max_acceleration,
        max_angular_velocity=robot.max_turn_rate,
        min_angular_velocity=-robot.max_turn_rate,
        max_angular_acceleration=robot.max_turn_acceleration,
        min_angular_acceleration=-robot.max_turn_acceleration,
    )
    odometry = _plugin(
        'gz-sim-odometry-publisher-system',
        odom_frame=odom_frame,
        robot_base_frame=f'{name}/base_link',
        odom_topic=f'/{name}/odom',
        tf_topic='/tf',
        odom_publish_frequency=odom_rate_hz,
        dimensions=2,
    )
    return f"""<model name="{name}">
  <pose>{x:.6g} {y:.6g} 0 0 0 0</pose>
  <link name="base_link">
    <inertial>
      <pose>0 0 {middle:.6g} 0 0 0</pose><mass>{mass:.6g}</mass>{_cylinder_inertia(mass, robot.radius, length)}
    </inertial>
    <collision name="chassis">{cylinder}</collision>
    <visual name="chassis_visual">{cylinder}{_colour('0.2 0.5 0.8')}</visual>
{casters}
    <sensor name="touch" type="contact">
      <always_on>true</always_on>
      <update_rate>50</update_rate>
      <topic>/{name}/contacts</topic>
      <contact><collision>chassis</collision><topic>/{name}/contacts</topic></contact>
    </sensor>{lidar}
  </link>
{wheels}
  {drive}
  {odometry}
</model>"""


def _wheel(robot: RobotModel, side: str, at: int) -> str:
    width, mass = robot.wheel_radius / 2, 0.04 * robot.mass
    size = f'<radius>{robot.wheel_radius:.6g}</radius><length>{width:.6g}</length>'
    tyre = f'<geometry><cylinder>{size}</cylinder></geometry>'
    grip = '<surface><friction><ode><mu>1</mu><mu2>1</mu2></ode></friction></surface>'
    return f"""  <link name="{side}_wheel">
    <pose>0 {at * robot.wheel_separation / 2:.6g} {robot.wheel_radius:.6g} {-math.pi / 2:.6g} 0 0</pose>
    <inertial><mass>{mass:.6g}</mass>{_cylinder_inertia(mass, robot.wheel_radius, width)}</inertial>
    <collision name="tyre">{tyre}{grip}</collision>
    <visual name="tyre_visual">{tyre}{_colour('0.1 0.1 0.1')}</visual>
  </link>
  <joint name="{side}_joint" type="revolute">
    <parent>base_link</parent><child>{side}_wheel</child>
    <axis><xyz>0 0 1</xyz><limit><lower>-inf</lower><upper>inf</upper></limit></axis>
  </joint>"""


def _lidar(world: World, name: str, beams: int, max_range: float) -> str:
    return f"""
    <sensor name="lidar" type="gpu_lidar">
      <pose>0 0 {SCAN_HEIGHT * world.robot.height:.6g} 0 0 0</pose>
      <topic>/{name}/scan</topic>
      <gz_frame_id>{name}/base_link</gz_frame_id>
      <update_rate>10</update_rate>
      <lidar>
        <scan><horizontal>
          <samples>{beams}</samples><resolution>1</resolution>
          <min_angle>{-math.pi:.6f}</min_angle><max_angle>{math.pi - 2 * math.pi / beams:.6f}</max_angle>
        </horizontal></scan>
        <range><min>{world.robot.radius:.6g}</min><max>{max_range:.6g}</max></range>
      </lidar>
    </sensor>"""
