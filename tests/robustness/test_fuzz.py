"""Mutants of valid files: 200 of them, and 30 of what platforms write, or 2,000 each with STMCDI_LONG=1.

``fuzz.py FIRST LAST``, with PYTHONPATH=tests, tries some by themselves, and with ``readers`` those of platforms.
"""

import fuzz
from steps import LONG


def test_mutants_end_in_success_or_in_one_line(tmp_path):
    (tmp_path / "seeds").mkdir()
    fuzz.make_seeds(tmp_path / "seeds")
    outcomes = fuzz.run_all(range(2000 if LONG else 200), tmp_path / "seeds", tmp_path)
    said = fuzz.summary(outcomes)
    print(said)
    assert not any(one.fault for one in outcomes), said
    assert_both_ends(outcomes, said)


def test_mutants_of_what_platforms_write(tmp_path):
    (tmp_path / "seeds").mkdir()
    fuzz.make_platforms(tmp_path / "seeds")
    outcomes = fuzz.run_all(range(2000 if LONG else 30), tmp_path / "seeds", tmp_path, fuzz.READERS)
    said = fuzz.summary(outcomes)
    print(said)
    assert not any(one.fault for one in outcomes), said
    assert_both_ends(outcomes, said)


def assert_both_ends(outcomes, said):
    """A good part of the mutants is refused, another one is still good."""
    codes = [one.code for one in outcomes]
    assert codes.count(0) > 0.1 * len(codes) and codes.count(2) > 0.3 * len(codes), said
