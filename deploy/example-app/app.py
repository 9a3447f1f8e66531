"""A legacy receiver of webhooks: it knows nothing of signatures, repeats or deadlines, and does not have to.

It prints what arrives and answers 200. SECONDS makes it slow, STATUS makes it fail. Python's standard library only.
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STATUS = int(os.environ.get("STATUS", "200"))
SECONDS = float(os.environ.get("SECONDS", "0"))
seen = set()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200 if self.path == "/health" else 404, {"ok": self.path == "/health"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self.headers.get("Hookgate-Key", "")
        print(
            f"{self.path}: event {self.headers.get('Hookgate-Event')}, attempt {self.headers.get('Hookgate-Attempt')},"
            f" {len(body)} bytes{', seen before' if key in seen else ''}"
        )
        time.sleep(SECONDS)
        if STATUS < 300:
            seen.add(key)
        self.answer(STATUS, {"ok": STATUS < 300})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 3000), Receiver).serve_forever()
