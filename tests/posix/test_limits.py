"""Deviations from POSIX are written once, in docs/semantics.md: what, why, the suites' cases."""

from tests.posix.limits import SUITES, limits


def test_each_limit_has_a_reason_and_cases_of_a_suite_that_is_run():
    found = limits()
    assert len(found) > 5
    for limit in found:
        assert limit.what, limit
        assert len(limit.why.split()) > 3, limit
        assert limit.cases, limit
        for case in limit.cases:
            suite, _, pattern = case.partition(" ")
            assert suite in SUITES, case
            assert pattern, case


def test_no_case_is_excluded_for_two_reasons():
    cases = [case for limit in limits() for case in limit.cases]
    assert sorted(set(cases)) == sorted(cases)
