"""One option for the whole suite: how hard it tries."""


def pytest_addoption(parser):
    parser.addoption(
        "--profile",
        choices=["dev", "ci"],
        default="dev",
        help="ci: ten times as many examples in random tests, and HTTP on asyncio's own loop as well as on uvloop's",
    )
