import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=int, default=16_384, help="rows in the chunk of a benchmark")


@pytest.fixture(scope="session")
def n_rows(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--rows")
