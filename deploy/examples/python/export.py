"""Exports an API with Sheaf: submits, watches, downloads, verifies the callback."""

import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import queue
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

SERVER = os.environ.get("SHEAF_URL", "http://127.0.0.1:8080").rstrip("/")
API_KEY = os.environ.get("SHEAF_API_KEY", "")
SECRET = os.environ.get("SHEAF_CALLBACK_SECRET", "")
NATS = os.environ.get("SHEAF_NATS", "")
SOURCE = os.environ.get("SOURCE_URL", SERVER + "/demo/page")


def ask(path, body=None):
    """Sends one request; with a body it is a POST."""
    headers = {"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}
    data = None
    if body is not None:
        headers["Content-Type"] = "application/json"
        data = json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(SERVER + path, data, headers), timeout=60)


def call(path, body=None):
    """Returns the data of an answer. A refusal raises urllib.error.HTTPError, whose body has the reason."""
    with ask(path, body) as answer:
        return json.load(answer)["data"]


def watch(key):
    """Yields the events of an export until it has ended: (name, data)."""
    with ask("/v1/export/watch?" + urllib.parse.urlencode({"key": key})) as stream:
        name = ""
        for line in stream:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def download(detail, folder):
    """Writes the file of an export and compares it with its SHA-256."""
    want, digest = detail["files"][0], hashlib.sha256()
    path = pathlib.Path(folder) / pathlib.Path(want["name"]).name
    with urllib.request.urlopen(detail["down_url"], timeout=60) as answer, open(path, "wb") as file:
        while chunk := answer.read(1 << 16):
            file.write(chunk)
            digest.update(chunk)
    if digest.hexdigest() != want["sha256"]:
        raise ValueError(f"{path} is damaged")
    return path


def verify(secret, headers, body):
    """Checks the signature of a callback as Standard Webhooks describes; the package standardwebhooks does too."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    sent = headers["webhook-timestamp"]
    signed = f"{headers['webhook-id']}.{sent}.".encode() + body
    want = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    known = any(hmac.compare_digest(want, one) for one in headers["webhook-signature"].split(" "))
    if not known or abs(time.time() - int(sent)) > 300:
        raise ValueError("the callback is not signed by this server, or is old")
    return json.loads(body)


def receive_callbacks(got):
    """Serves callbacks on a free port and returns its URL."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                callback = verify(SECRET, self.headers, body)
            except (ValueError, TypeError, KeyError):
                self.send_error(401)
                return
            self.send_response(204)
            self.end_headers()
            got.put(callback)  # the same webhook-id may come again

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/done"


def detail_by_nats(key):
    """Asks for the same detail over NATS, with the official client."""
    if not NATS:
        print("skipped NATS: SHEAF_NATS is not set")
        return
    try:
        import asyncio

        import nats
    except ImportError:
        print("skipped NATS: pip install nats-py")
        return

    async def request():
        connection = await nats.connect(NATS)
        answer = await connection.request("sheaf.api.default.detail", json.dumps({"key": key}).encode(), timeout=10)
        await connection.close()
        return json.loads(answer.data)["data"]

    print("by NATS: status", asyncio.run(request())["status"])


def main():
    got = queue.Queue()
    request = {
        "timestamp": int(time.time()),
        "ext_type": "XLSX",
        "title": "Orders (Python)",
        "user_id": "example",
        "source_http": {"url": SOURCE, "param": {"limit": 100}},
    }
    if SECRET:
        request["callback"] = receive_callbacks(got)
    key = call("/v1/export/http", request)["hash_key"]
    detail = {}
    for name, data in watch(key):
        if name == "progress":
            print("rows:", data["progress"]["rows"])
        detail = data
    if detail.get("status") != 2:
        sys.exit(f"the export failed: {detail.get('fail_reason')} ({detail.get('error_code')})")
    with tempfile.TemporaryDirectory() as folder:
        path = download(detail, folder)
        print(f"downloaded {path.name}: {detail['rows']} rows, {path.stat().st_size} bytes, checked")
    if SECRET:
        print("callback", got.get(timeout=30)["event"], "verified")
    else:
        print("skipped the callback: SHEAF_CALLBACK_SECRET is not set")
    detail_by_nats(key)


if __name__ == "__main__":
    main()
