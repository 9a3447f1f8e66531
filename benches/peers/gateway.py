"""A gateway as one would write it in an afternoon: checks the signature, writes the event behind the others, syncs, answers.

It does not deliver, does not look for duplicates, and does not ask for freshness. Usage: gateway.py PORT FILE SECRET
"""
import hashlib
import hmac
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, PATH, SECRET = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()
JOURNAL = os.open(PATH, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
ANSWER = b'{"received":true}'


class Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mac = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(mac, self.headers.get("X-Veedeo-Signature", "")):
            self.answer(401, b"")
            return
        os.write(JOURNAL, len(body).to_bytes(4, "big") + body)
        os.fdatasync(JOURNAL)
        self.answer(200, ANSWER)

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


Server(("127.0.0.1", PORT), Gateway).serve_forever()
