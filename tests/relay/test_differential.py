"""The native relay against the one on trio: the same schedule must come to the same end, byte for byte.

Where it need not, two things happen at once and the relay may hear of either first: `schedules.allowed` lists those races.
"""

import pytest

from sniproxy.relay.native import BUILT
from sniproxy.relay.trio_relay import NEVER_CLOSED
from tests.relay.conftest import IMPLEMENTATIONS
from tests.support.playing import Story, play
from tests.support.schedules import CLOSED, RESET, SIDES, Schedule, allowed, draw, other

pytestmark = pytest.mark.skipif(
    not BUILT, reason="the native relay is not built: there is nothing to compare"
)

SCHEDULES, AT_ONCE = 300, 20


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_both_relays_make_the_same_of_any_schedule(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        schedule = draw(seed)
        stories: dict[str, Story] = {}
        try:
            for implementation in IMPLEMENTATIONS:
                story = stories[implementation.name] = play(schedule, implementation)
                _check(schedule, story, implementation.name)
            _compare(schedule, stories["trio"], stories["native"])
        except BaseException as error:
            error.add_note(f"{schedule}\nwent as far as {', '.join(stories) or 'nowhere'}")
            raise


def _check(schedule: Schedule, story: Story, relay: str) -> None:
    """What the contract says of one relay."""
    outcome = story.outcome
    assert outcome.reason in allowed(schedule, story.state)
    counts = {"server": outcome.to_upstream, "player": outcome.to_client}
    whole = schedule.finish == "gently" or (story.state.quiet and not story.left)
    # The relay on trio counts a piece once all of it is out; the rest of it may have been heard.
    uncounted = max(schedule.buffer_size, schedule.first) if relay == "trio" else 0
    for side in SIDES:
        said, heard = story.said[other(side)], story.heard[side]
        assert said.startswith(heard), f"{side} heard what nobody said"
        assert len(heard) - uncounted <= counts[side] <= len(said)
        if whole:
            assert len(heard) == counts[side] == len(said)
    if outcome.reason is RESET[schedule.leaving]:
        assert other(schedule.leaving) in story.failed, "the reset did not reach the other side"
    elif not story.left:
        alone = schedule.finish == "idle" and outcome.reason in CLOSED.values()
        assert outcome.detail == (NEVER_CLOSED if alone else "")


def _compare(schedule: Schedule, trio: Story, native: Story) -> None:
    """What must be the same, where no race has led the two to different ends."""
    assert trio.said == native.said
    if trio.state == native.state and len(allowed(schedule, trio.state)) == 1:
        assert trio.outcome.reason is native.outcome.reason
        if trio.state.quiet and not trio.left:
            assert trio.heard == native.heard
            assert trio.outcome == native.outcome
