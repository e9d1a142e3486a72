"""What every test starts from."""

import gc
import signal

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, nothing of us.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

# Started in the background of a shell, this process and all it starts ignore Ctrl-C, and tests of it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def collector_as_it_was():
    """What one test keeps from the garbage collector the next one's may collect."""
    yield
    if gc.get_freeze_count():
        gc.unfreeze()


@pytest.fixture
def ample_extraction(monkeypatch):
    """Of ``max_seconds`` nine tenths are kept for extraction, so that no busy machine uses them up; made of those for work."""
    from dszig_py.usage import Ledger

    monkeypatch.setattr(Ledger, "KEEP", 0.9)
    monkeypatch.setattr(Ledger, "KEEP_SECONDS", float("inf"))
    return lambda seconds: 10 * seconds
