"""The attention runtime: models behind services, and a KServe v2 door where one is wanted.

ros2 launch attn_robotics attention_runtime.launch.py preload:=small_transformer door_port:=8000
"""

from attn_robotics.ros.launching import Arguments, in_namespace
from launch import LaunchDescription

ARGUMENTS = Arguments(
    (
        ('models', '', 'folder of model entries; empty takes those that ship', None),
        ('preload', '', 'models to load first, separated by commas, such as identity,small_transformer', None),
        ('memory_budget_mib', '0', 'most that models may hold on one device, 0 is all of it [MiB]', int),
        ('door_port', '0', 'port of the KServe v2 door on the loopback interface; 0 is off', int),
        ('max_request_mib', '256', 'largest request [MiB]', int),
        ('shm_ttl_s', '10.0', 'unfetched answers in shared memory are removed after this time [s]', float),
        ('shm_limit_mib', '1024', 'most that answers in shared memory may take before they are fetched [MiB]', int),
    )
)
NUMBERS = ('memory_budget_mib', 'door_port', 'max_request_mib', 'shm_ttl_s', 'shm_limit_mib')


def listed(context, name: str) -> list[str]:
    """An argument that names several things."""
    return [part.strip() for part in ARGUMENTS.text(context, name).split(',') if part.strip()]


def everything(context) -> list:
    """Build the node; here, since lists come as text."""
    lists = {name: found for name in ('models', 'preload') if (found := listed(context, name))}
    node = ARGUMENTS.node(context, 'attention_runtime', *NUMBERS, 'use_sim_time', more=[lists] if lists else [])
    return [in_namespace(node)]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments, stay on this machine unless told otherwise, start the runtime."""
    return ARGUMENTS.description(everything)
