"""The conformance kit: what prefopt promises of every loss, as one check per promise.

A plugin's test file needs three lines::

    from prefopt.testing import parametrize_with_checks

    @parametrize_with_checks("my_loss")
    def test_promise(check):
        check()
"""

try:
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import scipy  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"prefopt.testing needs {error.name}; install what it needs with pip install 'prefopt[testing]'"
    ) from None

from prefopt.testing.case import Case
from prefopt.testing.check import Check, CheckFailed
from prefopt.testing.kit import CHECKS, Result, check_loss
from prefopt.testing.parametrize import parametrize_with_checks

__all__ = ["CHECKS", "Case", "Check", "CheckFailed", "Result", "check_loss", "parametrize_with_checks"]
