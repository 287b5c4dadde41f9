"""One option for the whole suite: how hard the random tests try."""


def pytest_addoption(parser):
    parser.addoption(
        "--profile", choices=["dev", "ci"], default="dev", help="ci: ten times as many examples in random tests"
    )
