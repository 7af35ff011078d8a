"""What all tests share: a ROS domain of their own on the loopback interface, and single-threaded mathematics."""

import atexit
import os
import socket
import tempfile

import pytest

BASE_PORT, PORTS_A_DOMAIN, LAST_DOMAIN = 7400, 250, 100  # DDS: domain d owns 7400 + 250 d and the ports after it


def take_domain() -> tuple[int, socket.socket]:
    """A ROS domain that nobody on this machine uses, held by a socket as long as this process lives."""
    for offset in range(LAST_DOMAIN):
        domain = 1 + (os.getpid() + offset) % LAST_DOMAIN
        first = BASE_PORT + PORTS_A_DOMAIN * domain
        lock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            lock.bind(('127.0.0.1', first + PORTS_A_DOMAIN - 1))  # no participant comes that far
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(('0.0.0.0', first + 10))  # the first participant of a domain listens here
        except OSError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError(f'all {LAST_DOMAIN} ROS domains are in use on this machine')


# Before anything imports rclpy or torch; processes that tests start inherit it.
_DOMAIN, _LOCK = take_domain()
atexit.register(_LOCK.close)
os.environ |= {
    'ROS_DOMAIN_ID': str(_DOMAIN),
    'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    'ROS_LOG_DIR': tempfile.mkdtemp(prefix='attn_robotics_log_'),
    'RCUTILS_COLORIZED_OUTPUT': '0',
    'OMP_NUM_THREADS': '1',
    'PYTHONUNBUFFERED': '1',
}


@pytest.fixture(scope='session')
def ros_domain() -> int:
    """The ROS domain of these tests."""
    return _DOMAIN
