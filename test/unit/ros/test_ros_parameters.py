"""Parameters from dataclasses, on real nodes."""

import math
from dataclasses import dataclass

import pytest
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter

from attn_robotics.ros.lifecycle import AttnNode
from attn_robotics.ros.parameters import ParameterError, coerce, param, table

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class DemoParams:
    autostart: bool = param(True, 'Configure and activate without being told.', read_only=True)
    gain: float = param(1.0, 'Loudness.', low=0.0, high=2.0)
    count: int = param(3, 'How many.', low=1, high=10)
    least: int = param(5, 'At least one.', low=1)
    mode: str = param('slow', 'How fast.', choices=('slow', 'fast'))
    port: str = param('', 'Where to connect.', read_only=True)
    names: list[str] = param(['a'], 'Who.')  # noqa: RUF009
    weights: list[float] = param([1.0], 'How much.')  # noqa: RUF009


class Demo(AttnNode):
    NAME = 'demo'
    Params = DemoParams


FIELDS = DemoParams.__dataclass_fields__
BAD = [
    ('gian', 1.0, "unknown parameter 'gian'; did you mean 'gain'?"),
    ('gain', 'loud', "parameter 'gain' must be number from 0 to 2, got 'loud'"),
    ('gain', 2.5, "parameter 'gain' must be number from 0 to 2, got 2.5"),
    ('gain', math.nan, "parameter 'gain' must be number from 0 to 2, got nan"),
    ('count', 0, "parameter 'count' must be integer from 1 to 10, got 0"),
    ('count', 2.0, "parameter 'count' must be integer from 1 to 10, got 2.0"),
    ('count', True, "parameter 'count' must be integer from 1 to 10, got True"),
    ('least', -1, "parameter 'least' must be integer of at least 1, got -1"),
    ('mode', 'quick', "parameter 'mode' must be 'slow' or 'fast', got 'quick'"),
    ('names', 'ab', "parameter 'names' must be list, got 'ab'"),
    ('names', 5, "parameter 'names' must be list, got 5"),
    ('names', [1, 2], "parameter 'names' must be list, got "),
    ('weights', [1.0, math.nan], "parameter 'weights' must be list, got "),
    ('autostart', 'yes', "parameter 'autostart' must be true or false, got 'yes'"),
]


@pytest.mark.parametrize(('name', 'value', 'line'), BAD, ids=lambda v: str(v)[:20])
def test_a_bad_parameter_is_one_line_and_the_node_stays_unconfigured(graph, name, value, line):
    node = graph.start(Demo, **{name: value})
    graph.until(graph.errors, 'an error line')
    assert graph.state(node) == 'unconfigured'
    assert len(graph.errors()) == 1 and f'cannot configure: {line}' in graph.errors()[0]
    assert 'Traceback' not in graph.log()


def test_all_bad_parameters_are_named_in_one_line(graph):
    graph.start(Demo, gain=9.0, mode='quick', wights=[1.0])
    graph.until(graph.errors, 'an error line')
    (line,) = graph.errors()
    assert all(name in line for name in ("'gain'", "'mode'", "'wights'"))


def test_what_a_file_says_to_all_nodes_stops_none_that_lacks_it(graph, tmp_path):
    path = tmp_path / 'all.yaml'
    path.write_text('/**:\n  ros__parameters:\n    gain: 1.5\n    odom_rate: 20.0\n    scan: true\n')
    node = graph.start(Demo, cli_args=['--ros-args', '--params-file', str(path)])
    graph.until(lambda: graph.state(node) == 'active')
    assert node.params.gain == 1.5 and not graph.errors()
    assert not graph.warnings()  # others have these


def test_a_slip_in_what_a_file_says_to_all_nodes_is_one_line_wherever_it_was_meant_for(graph, tmp_path):
    path = tmp_path / 'all.yaml'
    path.write_text('/**:\n  ros__parameters:\n    odom_rte: 20.0\n    colour: red\n')
    node = graph.start(Demo, cli_args=['--ros-args', '--params-file', str(path)])
    graph.until(lambda: graph.state(node) == 'active')
    rate, colour = sorted(graph.warnings(), key=lambda line: 'colour' in line)
    assert "'odom_rte' is ignored; did you mean 'odom_rate' of another node?" in rate
    assert "'colour' is ignored; this node has: autostart, gain, count" in colour


def test_a_good_value_set_later_lets_the_node_configure(graph):
    node = graph.start(Demo, gain=9.0)
    graph.until(graph.errors, 'an error line')
    (result,) = node.set_parameters([Parameter('gain', value=1.5)])
    assert result.successful
    node.trigger_configure()
    node.trigger_activate()
    assert graph.state(node) == 'active' and node.params.gain == 1.5


def test_a_refused_set_clears_no_problem(graph):
    node = graph.start(Demo, gain=9.0)
    graph.until(graph.errors, 'an error line')
    result = node.set_parameters_atomically([Parameter('gain', value=1.5), Parameter('mode', value='quick')])
    assert not result.successful
    node.trigger_configure()
    assert graph.state(node) == 'unconfigured'


@pytest.mark.parametrize(
    ('name', 'value', 'reason'),
    [
        ('gain', math.nan, 'out of range'),
        ('gain', 2.5, 'gain'),
        ('gain', 'loud', 'DOUBLE'),
        ('mode', 'quick', "must be 'slow' or 'fast'"),
        ('port', 'elsewhere', 'read-only'),
    ],
)
def test_a_running_node_refuses_a_bad_value_with_a_reason(graph, name, value, reason):
    node = graph.start(Demo)
    graph.until(lambda: graph.state(node) == 'active')
    (result,) = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful and reason in result.reason
    assert graph.state(node) == 'active' and node.params == DemoParams()


def test_whole_numbers_are_fine_where_a_float_is_asked_for(graph):
    node = graph.start(Demo, gain=2, weights=[1, 2])
    graph.until(lambda: graph.state(node) == 'active')
    assert node.params.gain == 2.0 and node.params.weights == [1.0, 2.0]
    assert type(node.params.gain) is float


def test_use_sim_time_is_not_an_unknown_parameter(graph):
    node = graph.start(Demo, use_sim_time=True)
    graph.until(lambda: graph.state(node) == 'active')


def test_descriptors_answer_ros2_param_describe(graph):
    node = graph.start(Demo)
    gain, count, least, mode, port = node.describe_parameters(['gain', 'count', 'least', 'mode', 'port'])
    assert gain.description == 'Loudness.' and gain.type == ParameterType.PARAMETER_DOUBLE
    assert (gain.floating_point_range[0].from_value, gain.floating_point_range[0].to_value) == (0.0, 2.0)
    assert (count.integer_range[0].from_value, count.integer_range[0].to_value) == (1, 10)
    assert least.integer_range[0].from_value == 1 and least.additional_constraints == 'integer of at least 1'
    assert mode.additional_constraints == "'slow' or 'fast'"
    assert port.read_only and not mode.read_only


def test_the_table_lists_every_parameter_with_default_and_range():
    lines = table(DemoParams).splitlines()
    assert len(lines) == 2 + len(FIELDS)
    assert '| `gain` | `1.0` | number from 0 to 2 | Loudness. |' in lines
    assert "| `port` | `''` | string | Where to connect. Fixed at start. |" in lines
    assert all(line.count('|') == 5 for line in lines)


def test_a_missing_list_is_empty():
    assert coerce(FIELDS['names'], list[str], None) == []


def test_numbers_that_are_no_numbers_are_refused():
    with pytest.raises(ParameterError, match='least'):
        coerce(FIELDS['least'], int, math.nan)
