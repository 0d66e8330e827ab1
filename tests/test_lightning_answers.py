"""Ctrl-C waits where nobody would see what it raises, and comes then."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pme_lightning.lightning_answers import interrupts_held_back


class Slow:
    """Is interrupted while it is finalized."""

    finalized = False

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        Slow.finalized = True


@pytest.fixture
def _collected_by_hand() -> Iterator[None]:
    """Nothing is finalized before the test says so, and interrupts are what they are in a program of their own."""
    gc.disable()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    gc.enable()


@pytest.mark.usefixtures("_collected_by_hand")
def test_an_interrupt_comes_after_what_may_not_be_disturbed() -> None:
    before = signal.getsignal(signal.SIGINT)
    Slow()
    assert not Slow.finalized
    with pytest.raises(KeyboardInterrupt), interrupts_held_back():
        gc.collect()
    assert Slow.finalized
    assert signal.getsignal(signal.SIGINT) is before
    with interrupts_held_back():
        pass


def test_other_threads_are_never_interrupted() -> None:
    done: list[bool] = []

    def work() -> None:
        with interrupts_held_back():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
