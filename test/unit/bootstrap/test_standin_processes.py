import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch.actions import EmitEvent, ExecuteProcess, LogInfo, RegisterEventHandler, Shutdown, TimerAction
from launch.actions.execute_process import DEFAULT_PATIENCE_S
from launch.event_handlers import OnProcessExit, OnProcessIO, OnProcessStart, OnShutdown
from launch.events import Shutdown as ShutdownEvent
from launch.events import matches_action
from launch.events.process import ShutdownProcess, SignalProcess
from launch.substitutions import LocalSubstitution

from launch import LaunchDescription, LaunchService

STUBBORN = "trap '' INT TERM; echo ready; while :; do sleep 0.05; done"
PATIENT = 'echo ready; exec sleep 1000'


def shell(script, **kwargs):
    return ExecuteProcess(cmd=['sh', '-c', script], name='p', output='screen', **kwargs)


def launch(*entities):
    service = LaunchService()
    service.include_launch_description(LaunchDescription(entities))
    return service.run()


def when_ready(process, *entities):
    return RegisterEventHandler(
        OnProcessIO(target_action=process, on_stdout=lambda event: list(entities) if b'ready' in event.text else None)
    )


def test_output_lines_carry_the_name_and_the_end_its_exit_code(capfd):
    assert launch(shell('echo one; printf two; echo three >&2; exit 5')) == 0
    out, err = capfd.readouterr()
    assert '[p-1] one\n' in out and '[p-1] two\n' in out
    assert err == '[p-1] three\n'
    assert '[INFO] [p-1]: process started with pid [' in out
    assert ", exit code 5, cmd 'sh -c " in out


def test_a_clean_end_is_reported_as_such(capfd):
    assert launch(shell('true')) == 0
    assert '[INFO] [p-1]: process has finished cleanly [pid ' in capfd.readouterr().out


def test_plain_output_goes_to_the_log_and_errors_to_the_screen_too(capfd, log_folder):
    launch(ExecuteProcess(cmd=['sh', '-c', 'echo quiet; echo loud >&2'], name='p'))
    out, err = capfd.readouterr()
    assert 'quiet' not in out and err == '[p-1] loud\n'
    (log,) = log_folder.rglob('launch.log')
    assert '[p-1] quiet\n' in log.read_text() and '[p-1] loud\n' in log.read_text()


def test_unknown_output_is_refused(capfd):
    assert launch(ExecuteProcess(cmd=['true'], output='scren')) == 1
    assert "output='scren' is unknown" in capfd.readouterr().out


def test_a_program_that_cannot_start_is_reported(capfd):
    assert launch(ExecuteProcess(cmd=['/no/such/program'])) == 0
    out = capfd.readouterr().out
    assert "cannot start process: there is no executable '/no/such/program'" in out and 'exit code 127' in out


def test_environment_folder_and_terminal_reach_the_process(capfd, tmp_path, monkeypatch):
    monkeypatch.setenv('OUTER', 'kept')
    launch(
        shell('echo $OUTER $INNER; pwd; test -t 1 && echo tty', additional_env={'INNER': 'added'}, cwd=str(tmp_path))
    )
    out = capfd.readouterr().out
    assert '[p-1] kept added\n' in out and f'[p-1] {tmp_path}\n' in out and '[p-1] tty' not in out
    launch(shell('test -t 1 && echo tty', emulate_tty=True))
    assert '[p-1] tty\n' in capfd.readouterr().out


def test_shutdown_escalates_until_a_stubborn_process_is_gone(capfd):
    process = shell(STUBBORN, sigterm_timeout='0.2', sigkill_timeout='0.2')
    assert launch(process, when_ready(process, Shutdown(reason='enough'))) == 0
    out = capfd.readouterr().out
    assert "after receiving 'SIGINT', escalating to 'SIGTERM'" in out
    assert "after receiving 'SIGTERM', escalating to 'SIGKILL'" in out
    assert 'exit code -9' in out
    assert process.return_code == -signal.SIGKILL


def test_default_patience_leaves_room_within_five_seconds():
    assert 2 * float(DEFAULT_PATIENCE_S) <= 4


def test_what_a_process_leaves_behind_ends_with_it(capfd):
    launch(shell('sleep 1000 & echo $!'))
    pid = int(capfd.readouterr().out.split('[p-1] ')[1].split()[0])
    assert not running(pid)


def test_respawn_repeats_as_often_as_allowed(capfd):
    launch(shell('exit 3', respawn=True, respawn_delay=0.01, respawn_max_retries=2))
    assert capfd.readouterr().out.count('process started') == 3


def test_respawn_stops_at_shutdown(capfd, tmp_path):
    process = shell(f'echo x >> {tmp_path}/n; if test $(wc -l < {tmp_path}/n) = 3; then {PATIENT}; fi', respawn=True)
    assert launch(process, when_ready(process, Shutdown())) == 0
    assert capfd.readouterr().out.count('process started') == 3


def test_on_exit_shutdown_ends_the_others(capfd):
    other = shell(PATIENT)
    quick = ExecuteProcess(cmd=['true'], on_exit=Shutdown(reason='done'))
    assert launch(other, when_ready(other, quick)) == 0
    assert other.return_code == -signal.SIGINT


def test_event_handlers_see_start_exit_and_shutdown(capfd):
    process = shell('exit 4')
    launch(
        RegisterEventHandler(OnProcessStart(target_action=process, on_start=[LogInfo(msg='started')])),
        RegisterEventHandler(
            OnProcessExit(
                target_action=process,
                on_exit=lambda event, context: [LogInfo(msg=f'{event.process_name} gave {event.returncode}')],
            )
        ),
        RegisterEventHandler(OnProcessExit(on_exit=LogInfo(msg=['again ', LocalSubstitution('event.returncode')]))),
        RegisterEventHandler(OnShutdown(on_shutdown=LogInfo(msg=LocalSubstitution('event.reason')))),
        process,
    )
    said = [line.rsplit(': ', 1)[1] for line in capfd.readouterr().out.splitlines() if 'launch.user' in line]
    assert sorted(said[1:3]) == ['again 4', 'p-1 gave 4']
    assert said[0] == 'started' and said[3] == 'idle'


def test_single_processes_can_be_signalled_and_stopped():
    first, second = shell(PATIENT), shell(PATIENT)
    kill = EmitEvent(event=SignalProcess(signal_number='SIGKILL', process_matcher=matches_action(first)))
    stop = EmitEvent(event=ShutdownProcess(process_matcher=matches_action(second)))
    assert launch(first, second, when_ready(first, kill), when_ready(second, stop)) == 0
    assert (first.return_code, second.return_code) == (-signal.SIGKILL, -signal.SIGINT)


def test_timers_run_their_actions_unless_the_launch_ends_first(capfd):
    launch(
        TimerAction(period=0.01, actions=[LogInfo(msg='soon'), EmitEvent(event=ShutdownEvent(reason='timer'))]),
        TimerAction(period=1000.0, actions=[LogInfo(msg='never')]),
    )
    out = capfd.readouterr().out
    assert 'soon' in out and 'never' not in out


def test_an_error_in_a_handler_ends_the_launch_with_code_1(capfd):
    process = shell(PATIENT)
    handler = OnProcessStart(target_action=process, on_start=lambda event, context: 1 / 0)
    assert launch(RegisterEventHandler(handler), process) == 1
    assert 'Caught exception in launch (use --debug for traceback): division by zero' in capfd.readouterr().out
    assert process.return_code == -signal.SIGINT


FILE = """
from launch import LaunchDescription
from launch.actions import SetLaunchConfiguration
from launch_ros.actions import Node

def generate_launch_description():
    return LaunchDescription([
        SetLaunchConfiguration('sigterm_timeout', '0.3'), SetLaunchConfiguration('sigkill_timeout', '0.3'),
        Node(package='demo', executable='stubborn', output='screen'),
    ])
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_a_launch_that_is_interrupted_ended_or_killed(number, prefix, environment):
    (prefix / 'share' / 'demo' / 'launch' / 'main.launch.py').write_text(FILE)
    command = [sys.executable, '-m', 'ros2cli_standin', 'launch', 'demo', 'main.launch.py']
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if 'ready' in line)
        shell_pid, sleep_pid = map(int, line.split()[-2:])
        assert running(shell_pid) and running(sleep_pid)
        process.send_signal(number)
        if number == signal.SIGKILL:
            # The kernel ends the child itself; its own children are beyond what a launch that is gone can do.
            os.kill(sleep_pid, signal.SIGKILL)
        assert process.wait(timeout=30) == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    deadline = time.monotonic() + 30
    while (running(shell_pid) or running(sleep_pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(shell_pid) and not running(sleep_pid)


def running(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except OSError:
        return False
