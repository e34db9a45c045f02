"""Others have a published dataset at its tag, from a folder and from a store that speaks S3."""

import json
import logging
import os

import pytest

from tasks import dvc, workspace
from tests import publishing as tiny
from tests.nights import Nights

KEYS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "never to be seen",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def bucket():
    """The address of a server that speaks S3, with an empty bucket."""
    moto = pytest.importorskip("moto.server", reason="the S3 server of the tests is not installed")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    named = {"aws_access_key_id": "tester", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **named).create_bucket(Bucket="mintage")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module", params=["folder", "s3"])
def nights(request, tmp_path_factory):
    """Two published versions, whose cache on this machine is gone."""
    base = tmp_path_factory.mktemp("consumers")
    with pytest.MonkeyPatch.context() as patch:
        tiny.settle(patch, base)
        patch.setattr(dvc, "_dvc", tiny.in_process)
        patch.setattr(workspace, "check", lambda root: None)
        if request.param == "folder":
            nights = Nights(base)
        else:
            for name, value in KEYS.items():
                patch.setenv(name, value)
            endpoint = f"    endpointurl = {request.getfixturevalue('bucket')}\n"
            nights = Nights(base, "s3://mintage/store", endpoint)
        for night in (0, 1):
            nights.run(night)
        (nights.home / ".dvc/cache").rename(base / "gone")
        yield nights


def drawn(folder):
    """The seed that a tiny dataset was drawn with."""
    return json.loads((folder / "README.md").read_text().removeprefix("drawn: "))["seed"]


def test_open_and_get_at_a_tag(nights, tmp_path):
    from dvc.api import open as opened

    seeds = []
    for tag in nights.tags():
        with opened("data/export/README.md", repo=str(nights.origin), rev=tag) as file:
            seeds.append(json.loads(file.read().removeprefix("drawn: "))["seed"])
    assert len(set(seeds)) == 2
    tiny.in_process(["get", "--rev", nights.tags()[0], str(nights.origin), "data/export"], tmp_path)
    assert drawn(tmp_path / "export") == seeds[0]
    assert json.loads((tmp_path / "export/index.json").read_text())["kept"] == 3


def test_import_and_update(nights, tmp_path):
    first, second = nights.tags()
    tiny.run(tmp_path, "git", "init", "--quiet")
    tiny.in_process(["init"], tmp_path)
    tiny.in_process(["import", "--rev", first, str(nights.origin), "data/export"], tmp_path)
    before = drawn(tmp_path / "export")
    tiny.in_process(["update", "--rev", second, "export.dvc"], tmp_path)
    assert drawn(tmp_path / "export") != before
    assert second in (tmp_path / "export.dvc").read_text()


@pytest.mark.parametrize("nights", ["s3"], indirect=True)  # a folder has no key
def test_no_key_is_in_what_was_published_or_logged(nights, caplog):
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == KEYS["AWS_SECRET_ACCESS_KEY"]
    with caplog.at_level(logging.INFO):
        nights.run(2)
    assert "published " in caplog.text
    history = tiny.run(nights.origin, "git", "log", "--all", "--patch")
    told = tiny.run(nights.origin, "git", "for-each-ref", "--format=%(contents)")
    assert "dataset/" in tiny.run(nights.origin, "git", "tag", "--list")
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in history + told + caplog.text
