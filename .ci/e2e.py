"""Runs a built sheaf and checks every cell of its workbooks with openpyxl.

Usage: e2e.py BINARY. It writes only into a temporary folder and ends only the
processes it started.
"""

import http.server
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import uuid
import zipfile

import openpyxl

DEMO_ROWS = 100_000
ROWS = 20_011  # no multiple of LIMIT: the last page is partial
LIMIT = 500
TITLES = {
    "id": "编号",
    "order": "Order",
    "big": "Big",
    "amount": "Amount",
    "paid": "Paid",
    "note": "Note",
    "name": "姓名",
    "formula": "Formula",
    "nested": "Nested",
}


def source_row(i):
    """Row i as the source sends it."""
    return {
        "id": i,
        "order": f"{i:08d}",
        "big": 10**17 + i,
        "amount": i + 0.25,
        "paid": i % 2 == 0,
        "note": None,
        "name": f"李雷 <{i}> & \"x\"",
        "formula": f"=1+{i}",
        "nested": {"a": [i, None]},
    }


def workbook_row(i):
    """Row i as the workbook must hold it."""
    row = source_row(i)
    row["big"] = str(row["big"])  # more than 15 digits: text, so that none is lost
    row["nested"] = json.dumps(row["nested"], separators=(",", ":"))
    return tuple(row.values())


class Source(http.server.BaseHTTPRequestHandler):
    """Serves ROWS rows in the standard page format."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        page, limit = int(query["page"][0]), int(query["limit"][0])
        first = (page - 1) * limit
        rows = [TITLES] + [source_row(i) for i in range(first, min(first + limit, ROWS))]
        body = json.dumps(
            {
                "errcode": 0,
                "msg": "",
                "data": {
                    "data": rows,
                    "pagetag": {
                        "page": page,
                        "limit": limit,
                        "total": ROWS,
                        "total_page": -(-ROWS // limit),
                    },
                },
                "request_id": str(uuid.uuid4()),
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def read_workbook(path):
    """Yields the rows of the only sheet; path is a workbook, or a zip with one."""
    data = pathlib.Path(path).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as outer:
        assert outer.testzip() is None, f"{path}: damaged zip"
        names = outer.namelist()
        if "[Content_Types].xml" not in names:
            inner = [n for n in names if n.lower().endswith(".xlsx")]
            assert len(inner) == 1, f"{path} holds {names}, want one workbook"
            data = outer.read(inner[0])
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
    assert len(book.worksheets) == 1, f"{path} has sheets {book.sheetnames}, want one"
    yield from book.worksheets[0].iter_rows(values_only=True)


def run(binary, *args, cwd):
    """Runs sheaf to its end, shows and returns what it printed."""
    print("$ sheaf", *args, flush=True)
    done = subprocess.run(
        [binary, *args],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout, flush=True)
    assert done.returncode == 0, f"sheaf {args[0]} exited with {done.returncode}"
    return done.stdout


def check_export(binary, folder):
    """A one-shot export over HTTP holds every row of its source, in order."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Source)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/orders"
        run(binary, "export", url, "-o", "orders.xlsx", "--limit", str(LIMIT), cwd=folder)
    finally:
        server.shutdown()
        server.server_close()
    rows = read_workbook(folder / "orders.xlsx")
    header = next(rows)
    assert header == tuple(TITLES.values()), f"header is {header}"
    count = 0
    for i, row in enumerate(rows):
        assert row == workbook_row(i), f"row {i} is {row}, want {workbook_row(i)}"
        count += 1
    assert count == ROWS, f"{count} rows, want {ROWS}"
    print(f"export: {count:,} rows of {len(header)} cells, all as the source sent them")


def check_demo(binary, folder):
    """The demo prints where its workbook is, and the workbook is whole."""
    output = run(binary, "demo", cwd=folder)
    printed = [folder / p for p in re.findall(r"[^\s\"'=]+\.(?:zip|xlsx)\b", output, re.IGNORECASE)]
    files = [p for p in printed if p.is_file()]
    assert files, f"the demo names no workbook that exists: {printed}"
    rows = read_workbook(files[-1])
    header = next(rows)
    assert all(header) and len(set(header)) == len(header), f"header is {header}"
    count, seen = 0, set()
    for row in rows:
        assert len(row) == len(header), f"row {count} has {len(row)} cells: {row}"
        seen.add(hash(row))
        count += 1
    assert count == DEMO_ROWS, f"{count} rows, want {DEMO_ROWS}"
    assert len(seen) > 0.99 * count, f"only {len(seen)} different rows"
    print(f"demo: {count:,} rows of {len(header)} cells")


def main():
    binary = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="sheaf-e2e-") as folder:
        check_export(binary, pathlib.Path(folder))
        check_demo(binary, pathlib.Path(folder))


if __name__ == "__main__":
    main()
