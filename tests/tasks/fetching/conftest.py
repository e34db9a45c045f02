"""Hosts on loopback: a web server that gives parts and can break off, and a real S3 API."""

import hashlib
import http.server
import io
import json
import logging
import re
import threading
import time
from pathlib import Path

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
    def part(self):
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        return found and (int(found[1]), int(found[2] or 10**9) + 1)

    def send_head(self):
        file, part = super().send_head(), self.part()
        if not file or not part:
            return file
        with file:
            return io.BytesIO(file.read()[slice(*part)])

    def send_response(self, code, message=None):
        super().send_response(206 if code == 200 and self.part() else code, message)

    def send_header(self, name, value):
        if name == "Content-Length" and (part := self.part()):
            value = str(min(int(value), part[1]) - part[0])
        super().send_header(name, value)


class Hub(WebWithParts):
    """As much of the Hugging Face hub as its file system asks of one dataset, whose commit is `c0ffee`."""

    def do_GET(self):
        kind, where = self.place()
        if kind == "revision":
            self.say({"id": "us/set", "sha": "c0ffee", "siblings": []} if where == "c0ffee" else None)
        elif kind == "tree":
            below = Path(self.directory) / where.partition("/")[2]
            self.say([self.told(file) for file in sorted(below.rglob("*"))] if below.is_dir() else None)
        else:
            self.path = "/" + self.path.partition("/resolve/c0ffee/")[2]
            super().do_GET()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        files = [Path(self.directory) / path for path in asked]
        self.say([self.told(file) for file in files if file.exists()])

    def place(self):
        found = re.fullmatch(r"/api/datasets/us/set/(\w+)/([^?]*)(\?.*)?", self.path)
        return (found[1], found[2]) if found else ("", "")

    def told(self, file):
        path = file.relative_to(self.directory).as_posix()
        oid = hashlib.sha256(path.encode()).hexdigest()
        size = 0 if file.is_dir() else file.stat().st_size
        return {"type": "directory" if file.is_dir() else "file", "path": path, "oid": oid, "size": size}

    def say(self, answer):
        data = json.dumps(answer or {}).encode()
        self.server.asked.append((self.command, self.path, None))
        self.send_response(404 if answer is None else 200)
        if answer is None:
            self.send_header("X-Error-Code", "RevisionNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


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
