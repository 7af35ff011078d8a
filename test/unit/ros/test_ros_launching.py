"""What launch files share: values and files that are refused by name before anything starts."""

import pytest
from launch.actions import OpaqueFunction
from launch.launch_context import LaunchContext

from attn_robotics.ros.launching import Arguments

pytest.importorskip('launch_ros')
GOOD = '/**:\n  ros__parameters:\n    gain: 1.0\n'


@pytest.fixture
def check():
    """Check a launch file's arguments as if these had been given."""
    arguments = Arguments([('robots', '8', 'how many', int), ('speed', '1.0', 'how fast', float)])

    def run(**given):
        context = LaunchContext()
        context.launch_configurations.update({name: default for name, default, _, _ in arguments.rows} | given)
        return arguments.check(context)

    return run


@pytest.mark.parametrize(
    ('given', 'line'),
    [
        ({'robots': 'many'}, "launch argument robots must be a whole number, got 'many'"),
        ({'speed': 'fast'}, "launch argument speed must be a number, got 'fast'"),
        ({'autostart': '1'}, "launch argument autostart must be true or false, got '1'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(check, given, line):
    with pytest.raises(RuntimeError) as caught:
        check(**given)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (None, 'cannot be read: No such file'),
        ('a: [', 'is no YAML'),
        ('gain: 1.0', 'is no parameter file'),
        ('', 'is no'),
    ],
)
def test_a_parameter_file_that_no_node_could_read_is_named(check, tmp_path, content, words):
    path = tmp_path / 'params.yaml'
    if content is not None:
        path.write_text(content)
    with pytest.raises(RuntimeError, match=f'params_file {path} {words}'):
        check(params_file=str(path))


def test_good_arguments_pass_and_a_misspelt_one_is_told(check, tmp_path):
    path = tmp_path / 'params.yaml'
    path.write_text(GOOD)
    assert check(params_file=str(path)) == []
    assert len(check(robot='32')) == 1
    assert check(camera_topic='/image') == []


def test_a_row_of_a_launch_file_replaces_the_common_one():
    arguments = Arguments([('use_sim_time', 'true', 'follow /clock', bool)])
    found = [row for row in arguments.rows if row[0] == 'use_sim_time']
    assert [default for _, default, _, _ in found] == ['true']
    assert ('use_sim_time', 'false') in {(name, default) for name, default, _, _ in Arguments([]).rows}


def test_a_description_declares_checks_and_then_builds():
    built = []
    description = Arguments([('speed', '1.0', 'how fast', float)]).description(
        lambda context: built.append(context) or []
    )
    (build,) = (entity for entity in description.entities if isinstance(entity, OpaqueFunction))
    names = {argument.name for argument in description.get_launch_arguments()}
    assert {'speed', 'namespace', 'use_sim_time', 'log_level'} <= names
    context = LaunchContext()
    for entity in description.entities[:-1]:
        entity.visit(context)
    build.visit(context)
    assert built == [context]
    context.launch_configurations['speed'] = 'fast'
    with pytest.raises(RuntimeError, match='speed must be a number'):
        build.visit(context)
    assert len(built) == 1
