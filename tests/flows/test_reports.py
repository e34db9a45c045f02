"""The reports beside Prefect's UI: those of the cache, by digest, and nothing else of it."""

import hashlib
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
import uvicorn
from prefect.settings import PREFECT_API_URL, temporary_settings
from starlette.responses import HTMLResponse

from flows import footer, reports

PAGE = b"<!doctype html><title>a report</title>"


def put(cache, content):
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    path = cache / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return digest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def served(cache):
    """A server of reports, in front of one that answers to every name, as Prefect's UI does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect.server.api.server.create_app", lambda: HTMLResponse("Prefect"))
        patch.setenv(reports.CACHE, str(cache))
        application = reports.application()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def had(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as found:
            return found.status, found.read(), found.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_a_report_is_had_by_its_digest_and_its_scripts_are_locked_in(served, cache):
    status, page, headers = had(f"{served}/reports/{put(cache, PAGE)}")
    assert (status, page) == (200, PAGE)
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == "sandbox allow-scripts"


def test_all_else_is_prefects(served):
    assert [had(f"{served}/{name}")[1] for name in ("", "api/health", "report")] == [b"Prefect"] * 3


def test_nothing_else_of_the_cache_is_given_away(served, cache):
    (cache.parent / "outside").write_bytes(PAGE)
    (cache / "ab").mkdir(exist_ok=True)
    (cache / "ab/c").write_bytes(PAGE)
    for name in (put(cache, b"an image"), put(cache, b""), "0" * 32, "abc", "..%2Foutside", "ab/c", ""):
        status, said, _ = had(f"{served}/reports/{name}")
        assert (status, said.decode()) == (404, reports.GONE), name


def test_a_run_links_to_its_report_where_the_server_has_it(served, cache, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(footer, "_artifact", lambda create, **values: shown.append(values))
    report = tmp_path / "report.html"
    footer.show_report(report)
    report.write_bytes(PAGE + b"not in the cache")
    with temporary_settings({PREFECT_API_URL: f"{served}/api"}):
        footer.show_report(report)
        digest = put(cache, report.read_bytes())
        footer.show_report(report)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        footer.show_report(report)
    link = report.as_uri(), str(report)
    found = [(values["link"], values["link_text"]) for values in shown]
    assert found == [link, (f"/reports/{digest}", "Open the report"), link]
    assert all(str(report) in values["description"] for values in shown)
