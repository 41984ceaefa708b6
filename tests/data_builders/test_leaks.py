import tracemalloc

from data_builders.leaks import Names, leak_search


def test_repeated_ids_and_shared_videos_of_splits():
    ids = {"train": ["b_1", "a_1", "b_1"], "validation": ["c_1"], "test": ["a_1", "a_2", "b_2", "c_2"]}
    with leak_search() as search:
        for split, names in ids.items():
            for part in (names[:1], names[1:]):  # as tables come
                search.add(split, part, [name[0] for name in part])
        assert search.repeated_ids() == Names(2, ["b_1", "a_1"])
        assert search.shared_videos() == Names(3, ["a", "b", "c"])
        assert search.messages() == [
            "2 ids more than once, the first is b_1",
            "train and test share 2 videos, so speakers leak between them; the first is a",
            "validation and test share 1 video, so speakers leak between them; the first is c",
        ]


def test_splits_without_leaks():
    with leak_search() as search:
        assert search.messages() == []
        search.add("train", ["a", "b"], ["v", "v"])
        search.add("test", ["c"], ["w"])
        assert search.messages() == [] and search.repeated_ids() == search.shared_videos() == Names(0, [])


def test_memory_does_not_grow_with_the_names():
    with leak_search() as search:
        tracemalloc.start()
        for split in ("train", "test"):
            for start in range(0, 100_000, 1000):
                names = [f"a name that is not short {number}" for number in range(start, start + 1000)]
                search.add(split, names, names)
        assert len(search.messages()) == 2 and search.repeated_ids().number == 100_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20
