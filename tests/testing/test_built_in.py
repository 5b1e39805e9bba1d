"""Every built-in loss keeps every promise: one loss of each set of needs always, all of them on demand."""

import pytest

import prefopt
from prefopt.testing import parametrize_with_checks

REGISTRY = prefopt.load_registry()
BUILT_IN = sorted(name for name in REGISTRY.losses if REGISTRY.plugin_of(name).name == f"prefopt:{name}")
TELLING = sorted({str(REGISTRY.losses[name].needs): name for name in BUILT_IN}.values())


@parametrize_with_checks(*TELLING)
def test_promise(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(*(name for name in BUILT_IN if name not in TELLING))
def test_promise_of_its_like(check):
    check()
