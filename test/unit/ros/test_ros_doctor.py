"""The doctor: what it finds, what it advises, and how it ends."""

import json
import subprocess
import sys

import pytest

from attn_robotics.nodes import doctor
from attn_robotics.nodes.doctor import FALLBACK, MISSING, OK, examine, main, next_command

pytestmark = pytest.mark.ros


def state_of(part):
    return next(finding for finding in examine() if finding.part == part)


def test_where_the_tests_run_the_main_job_can_run(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert 'The main job can run here.' in text
    assert text.splitlines()[-1] == 'Next: ros2 launch attn_robotics sparc_sim.launch.py headless:=true'
    assert len(text.splitlines()) <= 24 and 'MISS' not in text


def test_json_holds_the_same(capsys):
    assert main(['--json']) == 0
    body = json.loads(capsys.readouterr().out)
    assert body['runs'] and len(body['findings']) == len(doctor.CHECKS)
    assert {finding['state'] for finding in body['findings']} <= {OK, FALLBACK, MISSING}
    assert all(finding['text'] for finding in body['findings'])


def test_weights_that_are_damaged_are_a_reason(monkeypatch, capsys, tmp_path):
    from attn_robotics.systems.sparc import weights_card

    damaged = tmp_path / 'sparc.safetensors'
    damaged.write_bytes(b'no weights')
    damaged.with_suffix('.yaml').write_text('sha256: 0\n')
    monkeypatch.setattr(weights_card, 'DEFAULT_WEIGHTS', damaged)
    assert main([]) == 1
    text = capsys.readouterr().out
    assert 'The main job cannot run here: weights.' in text and 'checksum' in text


def test_a_suite_that_is_not_installed_is_a_reason_with_the_command(monkeypatch, capsys):
    monkeypatch.delenv('AMENT_PREFIX_PATH')
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == 'Next: make prepare && source setup.bash'


def test_a_check_that_fails_itself_is_reported_and_the_others_go_on(monkeypatch):
    def broken():
        raise ImportError('libcudart.so.12: cannot open')

    monkeypatch.setattr(doctor, 'CHECKS', {**doctor.CHECKS, 'gpu': broken})
    findings = examine()
    assert len(findings) == len(doctor.CHECKS)
    (bad,) = [finding for finding in findings if finding.part == 'gpu']
    assert bad.state == MISSING and bad.text == 'ImportError: libcudart.so.12: cannot open'
    assert next_command(findings) == 'make prepare'


@pytest.mark.parametrize(
    ('mode', 'words', 'state'),
    [
        ('LOCALHOST', 'this machine only', OK),
        ('SUBNET', 'the local network', OK),
        (None, 'not set', FALLBACK),
        ('EVERYWHERE', 'EVERYWHERE', FALLBACK),
    ],
)
def test_discovery_says_who_hears_us(monkeypatch, mode, words, state):
    monkeypatch.setenv('ROS_DOMAIN_ID', '42')
    if mode is None:
        monkeypatch.delenv('ROS_AUTOMATIC_DISCOVERY_RANGE')
    else:
        monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', mode)
    found = doctor.discovery()
    assert words in found.text and 'domain 42' in found.text and found.state == state


def test_without_any_ros_the_doctor_still_speaks():
    code = (
        'import sys\n'
        "for name in ('rclpy', 'launch', 'launch.missing', 'attn_robotics_interfaces', 'tf2_msgs'):\n"
        '    sys.modules[name] = None\n'
        'import importlib.util\n'
        'find = importlib.util.find_spec\n'
        'importlib.util.find_spec = lambda name, *rest: None if sys.modules.get(name, 0) is None else find(name)\n'
        'from attn_robotics.nodes.doctor import main\n'
        'sys.exit(main([]))\n'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and 'Traceback' not in done.stderr, done.stderr
    assert 'The main job cannot run here: ROS, ros2, launch, messages.' in done.stdout
    assert done.stdout.splitlines()[-1] == 'Next: make prepare && source setup.bash'
