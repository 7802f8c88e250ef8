"""Runs a built sheaf and checks every cell of its workbooks with openpyxl.

Usage: e2e.py BINARY. It writes only into a temporary folder and ends only the
processes it started.
"""

import contextlib
import csv
import datetime
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import uuid
import zipfile

import openpyxl

DEMO_ROWS = 100_000
DEMO_HEADER = ("编号", "订单号", "姓名", "金额", "已付", "下单日期", "备注", "地址")
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
        page, limit = int(query.get("page", ["1"])[0]), int(query.get("limit", ["50"])[0])
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


class OrdinarySource(http.server.BaseHTTPRequestHandler):
    """Serves ROWS rows as most APIs do: {"items": [...], "total": n}, at most 1,000 a page."""

    protocol_version = "HTTP/1.1"
    asked = 0  # requests, of all tests

    def do_GET(self):
        OrdinarySource.asked += 1
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        page = int(query.get("page", ["1"])[0])
        limit = min(int(query.get("limit", ["20"])[0]), 1000)
        first = (page - 1) * limit
        rows = [source_row(i) for i in range(first, min(first + limit, ROWS))]
        body = json.dumps({"items": rows, "total": ROWS}, ensure_ascii=False).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def check(holds, message):
    """Like assert, but not switched off by PYTHONOPTIMIZE."""
    if not holds:
        sys.exit(f"e2e: {message}")


def read_workbook(path):
    """Yields the rows of the only sheet; path is a workbook, or a zip with one."""
    data = pathlib.Path(path).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as outer:
        check(outer.testzip() is None, f"{path}: damaged zip")
        names = outer.namelist()
        if "[Content_Types].xml" not in names:
            inner = [n for n in names if n.lower().endswith(".xlsx")]
            check(len(inner) == 1, f"{path} holds {names}, want one workbook")
            data = outer.read(inner[0])
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True)
    check(len(book.worksheets) == 1, f"{path} has sheets {book.sheetnames}, want one")
    yield from book.worksheets[0].iter_rows(values_only=True)


def compare(rows, expected, first=0):
    """Holds each row against expected(its number) and returns how many there are."""
    count = 0
    for i, row in enumerate(rows, first):
        check(same(row, expected(i)), f"row {i} is {row}, want {expected(i)}")
        count += 1
    return count


def same(row, want):
    """Equal, and of equal kind: True is not 1, and "1" is not 1."""
    return row == want and [isinstance(c, bool) for c in row] == [isinstance(c, bool) for c in want]


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
    check(done.returncode == 0, f"sheaf {args[0]} exited with {done.returncode}")
    return done.stdout


def check_export(binary, folder):
    """A one-shot export over HTTP holds every row of its source, in order."""
    with source_of(Source) as url:
        run(binary, "export", url, "-o", "orders.xlsx", "--limit", str(LIMIT), cwd=folder)
    rows = read_workbook(folder / "orders.xlsx")
    header = next(rows)
    check(header == tuple(TITLES.values()), f"header is {header}")
    count = compare(rows, workbook_row)
    check(count == ROWS, f"{count} rows, want {ROWS}")
    print(f"export: {count:,} rows of {len(header)} cells, all as the source sent them")


def check_ordinary(binary, folder):
    """An API of another form is exported from its URL alone, after sheaf has found out how."""
    with source_of(OrdinarySource) as url:
        run(binary, "preview", url, cwd=folder)
        run(binary, "export", url, "-o", "ordinary.xlsx", cwd=folder)
    rows = read_workbook(folder / "ordinary.xlsx")
    header = next(rows)
    check(header == tuple(TITLES), f"header is {header}")
    count = compare(rows, workbook_row)
    check(count == ROWS, f"{count} rows, want {ROWS}")
    print(f"ordinary API: {count:,} rows of {len(header)} cells, all as the source sent them")


def demo_row(n):
    """Row n of the demo, from 1: the formula of sheaf demo --help."""
    return (
        n,
        str(100_000_000_000_000_000 + 7919 * n),  # 18 digits: text
        "王李张刘陈杨黄赵吴周"[n % 10] + "伟芳娜敏静丽强磊军洋"[n // 10 % 10],
        37 * n % 1_000_000 / 100,
        n % 3 == 0,
        str(datetime.date(2026, 1, 1) + datetime.timedelta(days=n % 365)),
        None if n % 5 == 0 else f"备注 {n}",
        f'{{"city":"上海","zip":"{200_000 + n % 1000}"}}',
    )


def check_demo(binary, folder):
    """The demo says where its workbook is, and every cell follows the formula."""
    output = run(binary, "demo", cwd=folder)
    last = output.strip().splitlines()[-1]
    label, _, path = last.partition("workbook: ")
    check(label == "" and path, f"last line is {last!r}")
    rows = read_workbook(folder / path)
    header = next(rows)
    check(header == DEMO_HEADER, f"header is {header}")
    count = compare(rows, demo_row, first=1)
    check(count == DEMO_ROWS, f"{count} rows, want {DEMO_ROWS}")
    print(f"demo: {count:,} rows of {len(header)} cells, all as the formula says")


def check_source(binary, folder):
    """A file that sheaf serves is a source that sheaf exports."""
    (folder / "orders.json").write_text(
        json.dumps([source_row(i) for i in range(ROWS)], ensure_ascii=False), encoding="utf-8"
    )
    print("$ sheaf source orders.json", flush=True)
    server = subprocess.Popen(
        [binary, "source", "orders.json", "--listen", "127.0.0.1:0"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline()
        print(line, flush=True)
        url = re.search(r"http://\S+", line).group()
        run(binary, "export", url, "-o", "served.xlsx", "--limit", str(LIMIT), cwd=folder)
    finally:
        server.terminate()
        server.wait(timeout=30)
    rows = read_workbook(folder / "served.xlsx")
    header = next(rows)
    check(header == tuple(TITLES), f"header is {header}")
    count = compare(rows, workbook_row)
    check(count == ROWS, f"{count} rows, want {ROWS}")
    print(f"source: {count:,} rows of {len(header)} cells, all as in the file")


@contextlib.contextmanager
def serving(binary, folder, data, nats):
    """Runs sheaf serve while the block runs. Yields its addresses of REST and NATS."""
    server = subprocess.Popen(
        [binary, "serve", "--http", "127.0.0.1:0", "--nats-listen", nats, "--data", data],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        started = ""
        while "roles " not in started:
            line = server.stdout.readline()
            check(line, "sheaf serve did not start")
            started += line
        addresses = dict(re.findall(r"^(REST|NATS) +(\S+)", started, re.M))
        yield addresses["REST"], addresses.get("NATS")
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextlib.contextmanager
def source_of(handler):
    """Serves a source while the block runs. Yields the URL of its list."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/orders"
    finally:
        server.shutdown()
        server.server_close()


COLUMNS = ["--column", "big=订单号", "--column", "amount", "--column", "nested.a[0]=First", "--column", "note"]


def check_csv(path):
    """A CSV file of COLUMNS holds every row, with the digits as they were sent."""
    with open(path, encoding="utf-8-sig", newline="") as f:
        rows = csv.reader(f)
        header = next(rows)
        check(header == ["订单号", "amount", "First", "note"], f"header of {path} is {header}")
        count = compare(rows, lambda i: [str(10**17 + i), f"{i}.25", str(i), ""])
    check(count == ROWS, f"{path}: {count} rows, want {ROWS}")


def check_formats(binary, folder):
    """An export to other formats holds every row. A conversion of it does too, and does not ask the source."""
    with source_of(OrdinarySource) as url, serving(binary, folder, "converted", "none") as (at, _):
        run(binary, "export", url, "-o", "orders.csv", *COLUMNS, cwd=folder)
        check_csv(folder / "orders.csv")
        run(binary, "export", url, "-o", "orders.parquet", *COLUMNS, "--type", "big=text", cwd=folder)
        check_parquet(folder / "orders.parquet")

        run(binary, "export", url, "-o", "kept.xlsx", "--server", at, "--keep-pages", "1h", cwd=folder)
        history = json.loads(run(binary, "history", "--json", "--server", at, cwd=folder))
        key, asked = history[0]["hash_key"], OrdinarySource.asked
        run(binary, "convert", key, "-o", "converted.csv", "--server", at, *COLUMNS, cwd=folder)
        check_csv(folder / "converted.csv")
        run(binary, "convert", key, "-o", "converted.parquet", "--server", at, cwd=folder)
        check_parquet(folder / "converted.parquet")
        check(asked == OrdinarySource.asked, "a conversion asked the source")
    print(f"formats: {ROWS:,} rows as CSV and Parquet, exported and converted")


def check_parquet(path):
    """A Parquet file is whole: the length of its footer, between magic numbers. Go tests read its cells."""
    data = path.read_bytes()
    check(data[:4] == data[-4:] == b"PAR1", f"{path}: no Parquet file")
    check(0 < int.from_bytes(data[-8:-4], "little") < len(data) - 12, f"{path}: no footer")


EXAMPLES = {
    "Python": ("python3", ["python3", "python/export.py"]),
    "Node": ("node", ["node", "node/export.mjs"]),
    "Java": ("javac", ["java", "java/Export.java"]),
    "shell": ("curl", ["sh", "shell/export.sh"]),
}


def check_examples(binary, folder):
    """The examples of each language export the demo source of a server and verify its callback."""
    examples = pathlib.Path(__file__).resolve().parent.parent / "deploy" / "examples"
    with serving(binary, folder, "examples", "127.0.0.1:0") as (at, nats):
        secret = run(binary, "callback-secret", "--data", "examples", cwd=folder).strip()
        env = os.environ | {"SHEAF_URL": at, "SHEAF_NATS": nats, "SHEAF_CALLBACK_SECRET": secret}
        for language, (needs, command) in EXAMPLES.items():
            if shutil.which(needs) is None:
                print(f"example {language}: skipped, {needs} is not installed")
                continue
            done = subprocess.run(
                command, cwd=examples, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
            )
            print(f"example {language}:\n{done.stdout}", flush=True)
            check(done.returncode == 0, f"the example {language} exited with {done.returncode}")
            check("downloaded" in done.stdout, f"the example {language} downloaded nothing")
            if language != "shell":  # it receives no callbacks
                check("callback export.completed verified" in done.stdout, f"the example {language} got no callback")


def main():
    binary = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="sheaf-e2e-") as folder:
        check_export(binary, pathlib.Path(folder))
        check_ordinary(binary, pathlib.Path(folder))
        check_source(binary, pathlib.Path(folder))
        check_demo(binary, pathlib.Path(folder))
        check_formats(binary, pathlib.Path(folder))
        check_examples(binary, pathlib.Path(folder))


if __name__ == "__main__":
    main()
