"""The covering array that the other tests of this folder are designed by."""

from itertools import combinations

from covering import covering, every

FACTORS = {"a": [1, 2, 3], "b": ["x", "y"], "c": [True, False], "d": list("pqrst"), "e": [0, 1, 2]}


def meetings(rows) -> set:
    return {pair for row in rows for pair in combinations(sorted(row.items()), 2)}


def test_every_pair_meets_in_few_rows():
    rows = covering(FACTORS)
    assert meetings(rows) == meetings(every(FACTORS)) and len(every(FACTORS)) == 180
    assert 15 <= len(rows) <= 22  # 15 pairs of the two largest factors need as many rows


def test_what_is_not_allowed_is_left_out_and_all_else_meets():
    def allowed(row):
        return not (row.get("a") == 1 and row.get("d") in ("p", "q")) and not (
            row.get("b") == "x" and row.get("e") == 2
        )

    rows = covering(FACTORS, allowed)
    assert all(map(allowed, rows)) and meetings(rows) == meetings(every(FACTORS, allowed))


def test_the_same_seed_gives_the_same_rows():
    assert covering(FACTORS) == covering(FACTORS)
    assert covering(FACTORS, seed=1) != covering(FACTORS, seed=2)


def test_one_factor_has_nothing_to_meet():
    assert covering({"a": [1, 2]}) == [] and every({"a": [1, 2]}) == [{"a": 1}, {"a": 2}]
