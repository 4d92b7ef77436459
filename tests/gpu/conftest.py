"""Options of the kernel tests: code of another compute capability, run here by the driver's compiler; other plans."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ptx-of",
        default="",
        metavar="CAPABILITY",
        help="compile each kernel as PTX of this compute capability, at most that of the GPU, such as 8.7 for Orin",
    )

    parser.addoption(
        "--multiprocessors",
        default="132",
        metavar="COUNT",
        help="plan each kernel for a GPU of so many multiprocessors, such as 16; default: as in engines",
    )


@pytest.fixture(autouse=True)
def ptx_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand the options to the tests as environment variables."""
    monkeypatch.setenv("MULTIPROCESSORS", str(request.config.getoption("--multiprocessors")))
    monkeypatch.setenv("PTX_OF", str(request.config.getoption("--ptx-of")))
