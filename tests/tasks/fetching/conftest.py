"""Hosts on loopback: a web server that gives parts and can break off, and a real S3 API."""

import http.server
import logging
import re
import threading
import time

import pytest


class Web(http.server.SimpleHTTPRequestHandler):
    """Serves `folder`, with Range; `breaks` answers that end after that many bytes, `fails` with a status."""

    def log_message(self, *_):
        pass

    def send_head(self):
        self.server.asked.append((self.command, self.path, self.headers["Range"]))
        if self.command == "GET" and self.server.fails:
            return self.send_error(self.server.fails.pop(0))
        return super().send_head()

    def copyfile(self, source, outputfile):
        if self.command == "GET" and self.server.breaks:
            outputfile.write(source.read(self.server.breaks.pop(0)))
            outputfile.flush()
            time.sleep(0.1)  # a client forgets what it has not read yet when the line goes dead
            self.connection.close()
            return
        super().copyfile(source, outputfile)


class WebWithParts(Web):
    def send_head(self):
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        file = super().send_head()
        if file and found:
            file.seek(int(found[1]))
        return file

    def send_response(self, code, message=None):
        super().send_response(206 if code == 200 and self.headers["Range"] else code, message)

    def send_header(self, name, value):
        if name == "Content-Length" and self.headers["Range"]:
            value = str(int(value) - int(self.headers["Range"][6:-1]))
        super().send_header(name, value)


@pytest.fixture(params=[WebWithParts])
def web(tmp_path, request):
    """A web server on loopback for `folder`; `asked` has all requests."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = lambda *a: request.param(*a, directory=str(folder))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.folder, server.url = folder, f"http://127.0.0.1:{server.server_port}"
        server.asked, server.breaks, server.fails = [], [], []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def s3_server():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """A client of an S3 server on loopback, which s3fs finds too."""
    import boto3

    settings = {
        "ENDPOINT_URL": s3_server,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield client
    for found in client.list_objects_v2(Bucket="photos").get("Contents", []):
        client.delete_object(Bucket="photos", Key=found["Key"])
    client.delete_bucket(Bucket="photos")
