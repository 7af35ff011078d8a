"""What is compiled ahead is all that would be compiled and kept later."""

import importlib
from pathlib import Path

from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

from attn_robotics.systems import precompile

ROOT = Path(precompile.__file__).parents[1]


def compiled_functions():
    """Functions of the suite whose machine code numba keeps, by name."""
    for path in ROOT.rglob('*.py'):
        if '@njit(cache=True' not in path.read_text():
            continue
        module = importlib.import_module('.'.join(['attn_robotics', *path.relative_to(ROOT).with_suffix('').parts]))
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__:
                assert not isinstance(value._cache, NullCache)
                yield f'{module.__name__}.{name}', value


def test_every_compiled_function_is_reached():
    for part in precompile.PARTS:
        part()
    functions = dict(compiled_functions())
    assert len(functions) > 40
    waiting, reached = [function for function in functions.values() if function.signatures], set()
    while waiting:
        function = waiting.pop()
        if function not in reached:
            reached.add(function)
            called = (function.py_func.__globals__.get(name) for name in function.py_func.__code__.co_names)
            waiting += [other for other in called if isinstance(other, Dispatcher)]
    assert not [name for name, function in functions.items() if function not in reached]
