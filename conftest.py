"""For nbval, which fires the hooks of a *root* conftest for notebooks/: what is never compared, and how long it may wait."""


def pytest_collectstart(collector):
    if collector.__class__.__name__ == "IPyNbFile":
        collector.skip_compare += ("image/svg+xml", "text/html", "stderr")


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(
            item, "output_timeout"
        ):  # nbval waits five fixed seconds for late output: too few on a busy machine
            item.output_timeout = 60
