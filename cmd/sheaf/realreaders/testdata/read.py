"""python3 read.py READER FILE prints each row as read.mjs does."""

import csv
import datetime
import html.parser
import json
import sys


def show(value):
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, datetime.datetime):
        return ["clock", value.isoformat(timespec="microseconds")]
    if isinstance(value, (int, float)):
        return ["number", repr(value)]
    if isinstance(value, Digits):
        return ["number", value.text]
    if isinstance(value, (dict, list)):
        return ["json", json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=lambda d: float(d.text))]
    return ["text", value]


class Digits:
    """A number as it is written."""

    def __init__(self, text):
        self.text = text


def openpyxl(name):
    import openpyxl
    from openpyxl.utils.escape import unescape

    book = openpyxl.load_workbook(name, read_only=True)
    for row in book.worksheets[0].values:
        yield [unescape(v) if isinstance(v, str) else v for v in row]


def texts(name):
    csv.field_size_limit(1 << 30)
    with open(name, encoding="utf-8-sig", newline="") as f:
        yield from csv.reader(f, delimiter="\t" if name.endswith(".tsv") else ",", strict=True)


def objects(name):
    parse = {"parse_int": Digits, "parse_float": Digits}
    with open(name, encoding="utf-8") as f:
        rows = json.load(f, **parse) if name.endswith(".json") else (json.loads(line, **parse) for line in f)
        for n, row in enumerate(rows):
            if n == 0:
                yield list(row)
            yield list(row.values())


class Table(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.rows, self.cell = [], None

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.cell, self.number = "", ("class", "n") in attrs

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(Digits(self.cell) if self.number else self.cell)
            self.cell = None


def table(name):
    parser = Table()
    with open(name, encoding="utf-8", newline="") as f:
        parser.feed(f.read())
    return parser.rows


readers = {"openpyxl": openpyxl, "csv": texts, "json": objects, "html.parser": table}
for row in readers[sys.argv[1]](sys.argv[2]):
    sys.stdout.write(json.dumps([show(v) for v in row]) + "\n")
