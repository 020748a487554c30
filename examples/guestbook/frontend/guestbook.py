#!/usr/bin/python3
"""The guestbook's web front end.

Owns the page on which visitors leave a line, and keeps nothing itself: the lines are a list in Redis, which it finds
under the name of its Service. Several replicas run side by side. It must never fail to answer /healthz because Redis
is away: that would restart every front end for a fault that is not theirs.

  GET  /             the page: the entries, and which pod served it
  GET  /?add=TEXT    store an entry, then show the page
  POST /             store the form field `add`, then redirect to the page
  GET  /entries      the entries as JSON
  GET  /healthz      200 while the program runs
  GET  /readyz       200 while Redis answers

Settings come from the environment: GUESTBOOK_TITLE, GUESTBOOK_RELEASE (set by the image), GUESTBOOK_LISTEN (a port),
GUESTBOOK_ENTRIES_MAX, GUESTBOOK_REDIS (HOST:PORT). None may be called REDIS_PORT or the like: Kubernetes sets that for
the containers of a namespace with a Service `redis`, to an URL.
"""

import html
import http.server
import json
import os
import signal
import socket
import sys
import threading
import urllib.parse

TITLE = os.environ.get("GUESTBOOK_TITLE", "Guestbook")
RELEASE = os.environ.get("GUESTBOOK_RELEASE", "v1")
PORT = int(os.environ.get("GUESTBOOK_LISTEN", "8080"))
ENTRIES_MAX = int(os.environ.get("GUESTBOOK_ENTRIES_MAX", "100"))
REDIS = os.environ.get("GUESTBOOK_REDIS", "redis:6379")
REDIS_HOST, REDIS_PORT = REDIS.rsplit(":", 1)
REDIS_TIMEOUT_S = 2.0
ENTRY_BYTES_MAX = 1024
BODY_BYTES_MAX = 8192
LIST = "guestbook:entries"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:sans-serif;max-width:40em;margin:2em auto}}footer{{color:#666}}</style></head>
<body><h1>{title} {release}</h1>
<form method="post" action="/"><input name="add" maxlength="200" autofocus><button>Sign</button></form>
<ul>
{entries}
</ul>
<footer>served by {hostname}, release {release}</footer></body></html>
"""


class RedisError(Exception):
    """Redis was not reached, or refused the command."""


def redis(*words):
    """Sends one command on a connection of its own and returns the reply (RESP, version 2)."""
    command = b"*%d\r\n" % len(words)
    for word in words:
        word = word if isinstance(word, bytes) else str(word).encode()
        command += b"$%d\r\n%s\r\n" % (len(word), word)
    try:
        with socket.create_connection((REDIS_HOST, int(REDIS_PORT)), timeout=REDIS_TIMEOUT_S) as connection:
            connection.sendall(command)
            with connection.makefile("rb") as answer:
                return read_reply(answer)
    except OSError as error:
        raise RedisError(f"redis at {REDIS} was not reached: {error}") from error


def read_reply(answer):
    """Reads one reply."""
    line = answer.readline()
    if not line.endswith(b"\r\n"):
        raise RedisError("redis closed the connection in the middle of a reply")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    if kind == b"-":
        raise RedisError("redis refused: " + rest.decode(errors="replace"))
    if kind == b"$":
        length = int(rest)
        if length < 0:
            return None
        body = answer.read(length + 2)
        if len(body) != length + 2:
            raise RedisError("redis closed the connection in the middle of a reply")
        return body[:-2]
    if kind == b"*":
        return [read_reply(answer) for _ in range(int(rest))]
    raise RedisError(f"redis sent a reply of an unknown kind: {line!r}")


def add_entry(text):
    """Stores one entry; the oldest ones fall off the end."""
    entry = text.strip().encode()[:ENTRY_BYTES_MAX]
    if entry:
        redis("LPUSH", LIST, entry)
        redis("LTRIM", LIST, 0, ENTRIES_MAX - 1)


def entries():
    """The entries, newest first."""
    return [entry.decode(errors="replace") for entry in redis("LRANGE", LIST, 0, ENTRIES_MAX - 1)]


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server_version = "guestbook/" + RELEASE
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        try:
            if url.path == "/healthz":
                self.answer(200, "text/plain", "ok\n")
            elif url.path == "/readyz":
                redis("PING")
                self.answer(200, "text/plain", "ok\n")
            elif url.path == "/entries":
                self.answer(200, "application/json", json.dumps({"entries": entries(), "pod": socket.gethostname()}) + "\n")
            elif url.path == "/":
                for text in urllib.parse.parse_qs(url.query).get("add", []):
                    add_entry(text)
                self.show_page()
            else:
                self.answer(404, "text/plain", f"there is no page {url.path} here\n")
        except RedisError as error:
            self.answer(503, "text/plain", f"{error}\n")

    do_HEAD = do_GET

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            self.answer(413, "text/plain", f"an entry has at most {BODY_BYTES_MAX} bytes\n")
            return
        form = urllib.parse.parse_qs(self.rfile.read(length).decode(errors="replace"))
        try:
            for text in form.get("add", []):
                add_entry(text)
        except RedisError as error:
            self.answer(503, "text/plain", f"{error}\n")
            return
        self.send_response(303)
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def show_page(self):
        items = "\n".join(f"<li>{html.escape(entry)}</li>" for entry in entries())
        page = PAGE.format(
            title=html.escape(TITLE), release=html.escape(RELEASE), entries=items, hostname=html.escape(socket.gethostname())
        )
        self.answer(200, "text/html; charset=utf-8", page)

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Served-By", socket.gethostname())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def address_string(self):
        return self.client_address[0]

    def log_message(self, format, *arguments):
        print(f"{self.address_string()} {format % arguments}", flush=True)


class Server(http.server.ThreadingHTTPServer):
    """Listens without asking DNS for its own name, which http.server's own class does at start."""

    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = socket.gethostname(), self.server_address[1]


def main():
    server = Server(("0.0.0.0", PORT), Handler)

    def stop(number, frame):
        # As process 1 of its namespace a program gets no default action for SIGTERM. shutdown() waits for the
        # serving loop, which this very thread runs.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"guestbook {RELEASE} listens on port {server.server_port}, redis is {REDIS}", flush=True)
    server.serve_forever(poll_interval=0.1)
    print("guestbook stops", flush=True)


if __name__ == "__main__":
    sys.exit(main())
