"""The status table covers the error tree, exactly."""

import grpc

from server import errors
from server.api.status import STATUSES, status_of
from server.errors import ServerError


def subclasses(root: type[ServerError]) -> set[type[ServerError]]:
    return {root}.union(*(subclasses(child) for child in root.__subclasses__()))


def test_every_error_is_in_the_table_and_nothing_else():
    tree = {cls for cls in subclasses(ServerError) if cls.__module__ == errors.__name__}
    assert set(STATUSES) == tree
    assert len(tree) >= 18


def test_codes_are_unique_and_kebab_case():
    codes = [cls.code for cls in STATUSES]
    assert len(set(codes)) == len(codes)
    assert all(code == code.lower() and code.replace("-", "").isalpha() for code in codes)
    assert all("code" in vars(cls) and "title" in vars(cls) for cls in STATUSES)


def test_only_waiting_cures_what_is_retryable():
    for cls, status in STATUSES.items():
        assert status.retryable == (status.http in (429, 503, 504)), cls
        assert 400 <= status.http < 600
        assert status.grpc is not grpc.StatusCode.OK


def test_a_class_outside_the_table_is_answered_as_its_parent():
    class Special(errors.OverloadedError):
        pass

    assert status_of(Special("x")) is STATUSES[errors.OverloadedError]
