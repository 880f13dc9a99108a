from __future__ import annotations

import itertools

from beamish.core.kernel import new_archive_id
from beamish.xmpp.xml import escape_attr


def test_ids_of_an_archive_sort_by_time_and_cannot_be_guessed() -> None:
    times = [0.0, 0.001, 1.0, 1_800_000_000.0, 1_800_000_000.001, 1_800_000_000.5, 9_999_999_999.0]
    ids = [new_archive_id(at) for at in times]
    assert all(one < other for one, other in itertools.pairwise(ids))
    assert {len(id_) for id_ in ids} == {23}
    assert all(escape_attr(id_) == id_ for id_ in ids)
    assert len({new_archive_id(1.0)[11:] for _ in range(1000)}) == 1000
