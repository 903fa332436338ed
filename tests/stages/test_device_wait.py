"""What follows recall is tried shortly before its device is done, and not if there is no time for that."""

from __future__ import annotations

import numpy as np
import pytest

from searchpipe.runtime.begun_scores import Fusion
from searchpipe.stages.device_wait import _BEFORE_END_S, _TRIAL_MARGIN, DeviceWait, Followers
from searchpipe.stages.early_search import EarlySearch


class Named:
    def __init__(self, name):
        self.name = name

    def ready(self, work):
        return True


class Ended:
    """A search that other threads have ended."""

    ended, seconds = True, 1e-3

    def found(self):
        return np.array([4, 2], np.int32), np.array([2, 1], np.float32)


class Device:
    def __init__(self, left, done=False):
        self._left, self.done, self.waited = left, done, []

    def left(self):
        return self._left

    def wait(self, seconds):
        self.waited.append(seconds)
        return self.done


class Reader:
    name, reads = "score", ("candidates",)

    def __init__(self):
        self.read = []

    def read_ahead(self, work):
        self.read.append(work.candidates.docs.tolist())


@pytest.fixture
def tried(make_work):
    def use(device, trial_s=0.0):
        reader, work = Reader(), make_work()
        followers = Followers([Named("lexical"), Named("dense")], [reader], Fusion({}, "rrf", 60.0))
        followers.trial_s = trial_s
        early = {"lexical": EarlySearch(Named("lexical"), work, 2, None, Ended())}
        DeviceWait(followers, work, early, "dense").use(device)
        return reader.read, followers.trial_s

    return use


def test_it_is_tried_so_late_that_it_is_over_before_the_device(tried):
    device = Device(0.010)
    read, learnt = tried(device, trial_s=0.002)
    assert read == [[4, 2]]
    assert device.waited == [pytest.approx(0.010 - _TRIAL_MARGIN * 0.002 - _BEFORE_END_S)]
    assert learnt != 0.002


def test_a_device_that_is_done_sooner_is_not_kept_waiting(tried):
    device = Device(0.010, done=True)
    assert tried(device, trial_s=0.002) == ([], 0.002)
    assert len(device.waited) == 1


@pytest.mark.parametrize(("left", "times"), [(0.0021, 1), (0.0019, 0), (0.0, 0)])
def test_where_little_time_is_left_nothing_is_waited_for(tried, left, times):
    device = Device(left)
    read, _ = tried(device, trial_s=0.002)
    assert len(read) == times
    assert device.waited == []
