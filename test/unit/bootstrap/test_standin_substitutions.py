import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from launch.conditions import IfCondition, LaunchConfigurationEquals, LaunchConfigurationNotEquals, UnlessCondition
from launch.substitutions import (
    AllSubstitution,
    AndSubstitution,
    AnySubstitution,
    EnvironmentVariable,
    EqualsSubstitution,
    FindExecutable,
    IfElseSubstitution,
    LaunchConfiguration,
    NotEqualsSubstitution,
    NotSubstitution,
    OrSubstitution,
    PathJoinSubstitution,
    PythonExpression,
    SubstitutionFailure,
    TextSubstitution,
)
from launch_ros.parameter_descriptions import ParameterValue, evaluate_parameters

from launch import LaunchContext


def value(substitution, **configurations):
    context = LaunchContext()
    context.launch_configurations.update(configurations)
    return context.perform_substitution(substitution)


def test_a_configuration_gives_its_value_before_its_default():
    assert value(LaunchConfiguration('robots', default='8')) == '8'
    assert value(LaunchConfiguration('robots', default=['1', LaunchConfiguration('digit')]), digit='6') == '16'
    assert value(LaunchConfiguration('robots', default='8'), robots='32') == '32'
    with pytest.raises(SubstitutionFailure, match="'robots' does not exist"):
        value(LaunchConfiguration('robots'))


def test_an_environment_variable_gives_its_value_before_its_default(monkeypatch):
    monkeypatch.setenv('STANDIN_TEST', 'set')
    assert value(EnvironmentVariable('STANDIN_TEST', default_value='other')) == 'set'
    monkeypatch.delenv('STANDIN_TEST')
    assert value(EnvironmentVariable('STANDIN_TEST', default_value='other')) == 'other'
    with pytest.raises(SubstitutionFailure, match='STANDIN_TEST'):
        value(EnvironmentVariable('STANDIN_TEST'))


def test_path_parts_are_joined_and_nested_lists_are_concatenated():
    path = PathJoinSubstitution(['/maps', [LaunchConfiguration('map'), '.yaml']])
    assert value(path, map='rooms') == '/maps/rooms.yaml'


@given(st.integers(-99, 99), st.integers(1, 99))
def test_an_expression_is_what_python_makes_of_it(a, b):
    assert value(PythonExpression([LaunchConfiguration('a'), ' // ', str(b)]), a=str(a)) == str(a // b)


def test_an_expression_knows_math_and_the_modules_asked_for():
    assert float(value(PythonExpression('math.pi + sqrt(4)'))) == math.pi + 2
    assert value(PythonExpression("os.path.basename('/a/b')", ['os'])) == 'b'
    with pytest.raises(SubstitutionFailure, match='nothing_such'):
        value(PythonExpression('nothing_such'))


@given(st.booleans(), st.booleans())
def test_logic_follows_python(a, b):
    left, right = str(a), str(int(b))
    word = {True: 'true', False: 'false'}
    assert value(AndSubstitution(left, right)) == value(AllSubstitution(left, right)) == word[a and b]
    assert value(OrSubstitution(left, right)) == value(AnySubstitution(left, right)) == word[a or b]
    assert value(NotSubstitution(left)) == word[not a]
    assert value(EqualsSubstitution(left, right)) == word[a == b]
    assert value(NotEqualsSubstitution(left, right)) == word[a != b]


def test_equality_compares_numbers_as_numbers_and_the_rest_as_text():
    assert value(EqualsSubstitution('0.30', '0.3')) == 'true'
    assert value(EqualsSubstitution(LaunchConfiguration('n'), 4), n='4.0') == 'true'
    assert value(EqualsSubstitution('gazebo', 'Gazebo')) == 'false'


def test_a_choice_evaluates_only_the_side_it_takes():
    assert value(IfElseSubstitution('true', 'yes', LaunchConfiguration('missing'))) == 'yes'
    assert value(IfElseSubstitution(LaunchConfiguration('x'), 'yes'), x='0') == ''


def test_a_program_that_path_lacks_is_named():
    assert value(FindExecutable('sh')).endswith('/sh')
    with pytest.raises(SubstitutionFailure, match='no-such-program'):
        value(FindExecutable('no-such-program'))


def test_conditions_accept_documented_truth_values_only():
    context = LaunchContext()
    context.launch_configurations['gui'] = ' TRUE '
    assert IfCondition(LaunchConfiguration('gui')).evaluate(context)
    assert not UnlessCondition(LaunchConfiguration('gui')).evaluate(context)
    assert LaunchConfigurationEquals('gui', ' TRUE ').evaluate(context)
    assert LaunchConfigurationEquals('unset', None).evaluate(context)
    assert LaunchConfigurationNotEquals('gui', 'x').evaluate(context)
    with pytest.raises(ValueError, match="'yes' is no truth value"):
        IfCondition('yes').evaluate(context)


def test_a_number_where_text_belongs_is_refused():
    with pytest.raises(TypeError, match='got int: 3'):
        PathJoinSubstitution(['/maps', 3])
    with pytest.raises(TypeError, match='got int: 3'):
        TextSubstitution(text=3)


def test_parameters_keep_their_types_and_substitutions_are_read_as_yaml():
    context = LaunchContext()
    context.launch_configurations.update(n='32', share='0.3', on='true', name='7')
    given_values = {
        'plain': '1',
        'n': LaunchConfiguration('n'),
        'share': LaunchConfiguration('share'),
        'on': LaunchConfiguration('on'),
        'name': ParameterValue(LaunchConfiguration('name'), value_type=str),
        'joined': ParameterValue(['r', LaunchConfiguration('n')], value_type=str),
        'floats': ParameterValue(LaunchConfiguration('list', default='[1, 2.5]'), value_type=list[float]),
        'nested': {'deep': [1, 2]},
    }
    assert evaluate_parameters(context, given_values) == {
        'plain': '1',
        'n': 32,
        'share': 0.3,
        'on': True,
        'name': '7',
        'joined': 'r32',
        'floats': [1.0, 2.5],
        'nested': {'deep': [1, 2]},
    }


@pytest.mark.parametrize(
    'bad',
    [ParameterValue('x', value_type=int), ParameterValue(True, value_type=int), ['a', TextSubstitution(text='b')]],
)
def test_a_parameter_of_the_wrong_type_is_refused(bad):
    with pytest.raises(TypeError):
        evaluate_parameters(LaunchContext(), {'p': bad})
