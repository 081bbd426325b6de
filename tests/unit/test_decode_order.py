"""The order of decoding: by class and deadline, a tenth for the background, nobody left out."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from imageserve.web.decode_order import ONE_IN, Asked, DecodeOrder, Place

ASKED = st.builds(Asked, st.integers(0, 20).map(float), st.booleans())
WAITING = st.lists(ASKED, max_size=60)


def order_of(waiting: list[Asked], taken: int = 0) -> DecodeOrder[Place]:
    """Return the order, after as many turns while both classes waited."""
    order: DecodeOrder[Place] = DecodeOrder()
    for _ in range(taken):
        for is_background in (False, True):
            order.add(Place(Asked(0.0, is_background)))
        order.take()
        while order.take():
            pass
    for asked in waiting:
        order.add(Place(asked))
    return order


def all_taken(order: DecodeOrder[Place]) -> list[Place]:
    taken = []
    while place := order.take():
        taken.append(place)
    return taken


@given(WAITING)
def test_each_class_goes_by_deadline_and_equals_as_they_came(waiting: list[Asked]) -> None:
    taken = all_taken(order_of(waiting))

    assert len(taken) == len(waiting)
    for is_background in (False, True):
        mine = [each for each in taken if each.asked.is_background is is_background]
        keys = [(each.asked.deadline, each.number) for each in mine]
        assert keys == sorted(keys)


@given(WAITING, st.integers(0, 2 * ONE_IN))
def test_while_both_wait_just_every_tenth_is_of_the_background(
    waiting: list[Asked], before: int
) -> None:
    order = order_of(waiting, before)
    left = [sum(not each.is_background for each in waiting)]
    left.append(len(waiting) - left[0])
    turns = before
    while place := order.take():
        is_background = place.asked.is_background
        if all(left):
            turns += 1
            assert is_background == (turns % ONE_IN == 0)
        left[is_background] -= 1


@given(WAITING, ASKED, st.integers(0, 2 * ONE_IN))
def test_the_pictures_ahead_are_those_that_are_then_taken_first(
    waiting: list[Asked], asked: Asked, before: int
) -> None:
    order = order_of(waiting, before)
    ahead = order.ahead(asked)
    mine = Place(asked)
    order.add(mine)

    assert all_taken(order).index(mine) == ahead


@given(WAITING, ASKED, ASKED)
def test_who_is_before_whom_is_the_same_everywhere(
    waiting: list[Asked], one: Asked, other: Asked
) -> None:
    assert one.is_before(other) or other.is_before(one)
    same_class = [each for each in waiting if each.is_background == one.is_background]
    order = order_of(same_class)
    order.add(Place(one))
    taken = [place.asked for place in all_taken(order)]
    assert all(a.is_before(b) for a, b in pairwise(taken))


@given(WAITING, st.data())
def test_who_leaves_is_not_taken(waiting: list[Asked], data: st.DataObject) -> None:
    order: DecodeOrder[Place] = DecodeOrder()
    places = [Place(asked, pictures=1 + i % 3) for i, asked in enumerate(waiting)]
    for place in places:
        order.add(place)
    leaving = [place for place in places if data.draw(st.booleans())]

    assert all(order.remove(place) for place in leaving)
    assert not any(order.remove(place) for place in leaving)

    stay = [place for place in places if place not in leaving]
    assert order.pictures == sum(place.pictures for place in stay)
    assert len(order) == len(stay)
    assert {id(place) for place in all_taken(order)} == {id(place) for place in stay}
    assert order.pictures == 0


def test_all_pictures_of_a_request_count_as_ahead() -> None:
    order: DecodeOrder[Place] = DecodeOrder()
    order.add(Place(Asked(1.0), pictures=5))
    order.add(Place(Asked(3.0)))

    assert [order.ahead(Asked(deadline)) for deadline in (0.5, 1.0, 2.0, 3.0)] == [0, 5, 5, 6]
