"""`align report --open`: the page, and nothing else, on the loopback address."""

import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from alignment.report import serving


@pytest.fixture
def server(tmp_path):
    (tmp_path / "report.html").write_text("<p>the page</p>")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "pipeline.json").write_text("secret")
    with serving.make_server([tmp_path / "report.html", tmp_path / "report.json"]) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def fetch(url: str, **headers: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, headers=headers), timeout=5).read().decode()


def test_the_page_and_its_data_are_served(server, tmp_path):
    url = serving.address(server)
    assert server.server_address[0] == "127.0.0.1"
    assert fetch(url) == fetch(f"{url}report.html") == fetch(f"{url}?x=1") == "<p>the page</p>"
    assert fetch(f"{url}report.json") == "{}"
    (tmp_path / "report.html").write_text("anew")
    assert fetch(url) == "anew"


@pytest.mark.parametrize("path", ["pipeline.json", "../pipeline.json", "%2e%2e/x", "/etc/hostname", "report.html/"])
def test_other_files_are_not_served(server, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(serving.address(server) + path)


def test_another_host_name_is_refused(server):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetch(serving.address(server), Host="example.org")
    assert fetch(serving.address(server), Host=f"localhost:{server.server_address[1]}")


@pytest.mark.parametrize("display", [True, False])
def test_a_browser_is_opened_if_there_is_a_display(tmp_path, monkeypatch, capsys, display):
    opened = []
    monkeypatch.setattr(serving, "has_display", lambda: display)
    monkeypatch.setattr(serving.webbrowser, "open", lambda url: opened.append(url) or True)
    monkeypatch.setattr(serving.ThreadingHTTPServer, "serve_forever", interrupted)
    (tmp_path / "report.html").write_text("page")
    serving.serve([tmp_path / "report.html"])
    printed = capsys.readouterr().out
    assert f"serving {tmp_path / 'report.html'} at http://127.0.0.1:" in printed
    assert printed.endswith("Ctrl-C ends it\nstopped\n")
    assert len(opened) == display and ("open the address yourself" in printed) == (not display)


def interrupted(server):
    raise KeyboardInterrupt


def test_a_display_is_known_by_the_environment(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(serving.sys, "platform", "linux")
    assert not serving.has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert serving.has_display()


def test_the_verb_serves_the_page_that_it_wrote(small_run, tmp_path, monkeypatch):
    import argparse
    import shutil

    from alignment.cli.inspect import report as command

    served = []
    monkeypatch.setattr(serving, "serve", served.append)
    run_dir = shutil.copytree(small_run, tmp_path / "tiny", ignore=lambda folder, names: {"evals"} & {*names})
    arguments = {"run_dir": [Path(run_dir)], "output": None, "all": False, "open": True}
    assert command.main(argparse.Namespace(**arguments)) == 0
    assert served == [[run_dir / "report.html", run_dir / "report.json"]]
