from __future__ import annotations

import os
import signal
import threading

import pytest

from prefopt.engine.ranks import ALONE
from prefopt.training.stopping import stopping_between_steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_a_later_one_stops_at_once(number, monkeypatch):
    before, now = signal.getsignal(number), [100.0]
    monkeypatch.setattr("prefopt.training.stopping.time.monotonic", lambda: now[0])
    with stopping_between_steps(ALONE) as stop:
        assert not stop.told()
        os.kill(os.getpid(), number)
        assert stop.told()
        now[0] += 1
        os.kill(os.getpid(), number)  # passed on by a launcher
        now[0] += 5
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_no_signal_is_touched():
    found = []

    def run():
        with stopping_between_steps(ALONE) as stop:
            found.append((stop.told(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]
