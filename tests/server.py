"""A web server on this machine that behaves badly when told to.
Entry point: serving(files, **tricks), a context manager.
"""

import base64
import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def md5(data: bytes) -> str:
    """Return the MD5 of `data` in hexadecimal digits."""
    return hashlib.md5(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves server.files; server.tricks[path] are functions that answer instead, one a request, the last for ever."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.seen.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        tricks = self.server.tricks.get(path, [])
        trick = (tricks.pop(0) if len(tricks) > 1 else tricks[0]) if tricks else whole
        self.close_connection = True
        if path not in self.server.files and not tricks:
            self.send_error(404)
            return
        trick(self, self.server.files.get(path, b""))

    def start(self):
        return int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0

    def answer(self, code, body, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def whole(handler, body, cut=None, announced=0):
    """Answer properly, a range where asked for one; or close after `cut` bytes, or add to the announced length."""
    start = handler.start()
    headers = {"Content_Length": len(body) - start + announced}
    if start >= len(body) > 0:
        handler.answer(416, b"", Content_Range=f"bytes */{len(body)}")
    elif start:
        headers["Content_Range"] = f"bytes {start}-{len(body) - 1}/{len(body) + announced}"
        handler.answer(206, body[start:][:cut], **headers)
    else:
        handler.answer(200, body[:cut], **headers)


def drop(handler, body):
    whole(handler, body, cut=100_000)


def drop_at_once(handler, body):
    handler.close_connection = True


def announce_more(handler, body):
    whole(handler, body, announced=1000)


def announce_less(handler, body):
    handler.answer(200, body, Content_Length=len(body) - 1000)


def ignore_range(handler, body):
    handler.answer(200, body, Content_Length=len(body))


def other_range(handler, body):
    handler.answer(206, body[5:], Content_Range=f"bytes 5-{len(body) - 1}/{len(body)}", Content_Length=len(body) - 5)


def status(code, **headers):
    return lambda handler, body: handler.answer(code, b"", Content_Length=0, **headers)


def web_page(handler, body):
    handler.answer(200, b"<html>log in</html>", Content_Type="text/html; charset=utf-8")


def guarded(handler, body):
    if handler.headers.get("Authorization") == "Basic " + base64.b64encode(b"me:secret").decode():
        whole(handler, body)
    else:
        handler.answer(401, b"", WWW_Authenticate='Basic realm="VoxCeleb"', Content_Length=0)


@contextmanager
def serving(files, **tricks):
    """Run a server of {name: bytes} on a free port; it has `url`, `seen` (path, Range, Authorization) and `tricks`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.seen = {f"/{name}": body for name, body in files.items()}, []
    server.tricks = {f"/{name}": list(own) for name, own in tricks.items()}
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
