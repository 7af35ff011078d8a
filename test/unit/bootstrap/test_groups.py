import pytest


@pytest.mark.xdist_group('together')
def test_tests_of_a_group_stay_on_one_worker(request):
    """Launches side by side on two cores upset each other; pytest-xdist does not say when it ignores their group."""
    if request.config.getoption('loadgroup', default=False):
        assert request.node.nodeid.endswith('@together')
