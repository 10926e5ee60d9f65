"""The first signal asks, the second stops; handlers are put back."""

import os
import signal
import threading
from pathlib import Path

import pytest

from csd3d.runs.interrupt import RunInterrupted, stoppable


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_sets_the_request_and_the_second_raises(signum):
    before = signal.getsignal(signum)
    with stoppable() as stop:
        assert not stop
        os.kill(os.getpid(), signum)
        assert stop
        assert stop.signum == signum
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signum)
    assert signal.getsignal(signum) is before


def test_other_threads_get_a_request_that_is_never_set():
    seen = []

    def work():
        with stoppable() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_exit_codes():
    assert RunInterrupted(Path("r")).exit_code == 130
    assert RunInterrupted(Path("r"), signal.SIGTERM).exit_code == 143
    assert isinstance(RunInterrupted(Path("r")), KeyboardInterrupt)
