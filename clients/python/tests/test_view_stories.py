"""Views whatever happens: loads at any time, pushes that are late, doubled or lost, reconnects and resyncs."""

from hypothesis import given, settings
from hypothesis import strategies as st

from . import view_world
from .view_world import World


@settings(max_examples=300)
@given(st.data())
def test_a_view_has_a_prefix_of_the_log_always_and_all_of_it_in_the_end(data: st.DataObject) -> None:
    world = World(lambda count: data.draw(st.integers(0, count - 1)))
    for _ in range(data.draw(st.integers(0, 60))):
        world.step()
    world.settle()


def test_the_vectors_for_other_languages_are_stories_of_this_model() -> None:
    assert view_world.STORIES.read_text() == view_world.stories(), "run view_world.py"
