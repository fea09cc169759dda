"""One run directory for all tests of kills: the stages that each is compared with are run once."""

import pytest
from align_server import AlignServer
from killed_runs import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    server = AlignServer(tmp_path_factory.mktemp("kills"))
    yield Runs(server, server.folder / "runs")
    server.close()
