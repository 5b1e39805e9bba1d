"""Every built-in loss keeps every promise."""

import prefopt
from prefopt.testing import parametrize_with_checks

REGISTRY = prefopt.load_registry()
BUILT_IN = sorted(name for name in REGISTRY.losses if REGISTRY.plugin_of(name).name == f"prefopt:{name}")


@parametrize_with_checks(*BUILT_IN)
def test_promise(check):
    check()
