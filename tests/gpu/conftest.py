"""Option of the kernel tests: code of another compute capability, run here by the driver's compiler."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ptx-of",
        default="",
        metavar="CAPABILITY",
        help="compile each kernel as PTX of this compute capability, at most that of the GPU, such as 8.7 for Orin",
    )


@pytest.fixture(autouse=True)
def ptx_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand the option to the tests as an environment variable."""
    monkeypatch.setenv("PTX_OF", str(request.config.getoption("--ptx-of")))
