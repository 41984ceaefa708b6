"""A model Hub in one thread: what is pushed to it can be looked at and loaded again. No other host is asked."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dict of files.

    Attributes:
        endpoint: What `HF_ENDPOINT` must be.
        repositories: Name -> path -> content.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, headers=()):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def not_found(self, code):
        self.answer({"error": code}, 404, {"X-Error-Code": code})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'user'}/{request['name']}"
            self.server.repositories.setdefault(name, {})
            self.answer({"url": f"{self.server.endpoint}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path.endswith("/preupload/main"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            uploads = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.answer({"files": uploads})
        elif path.endswith("/commit/main"):
            name = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.repositories[name][entry["value"]["path"]] = content
            url = f"{self.server.endpoint}/{name}/commit/{COMMIT}"
            self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.not_found("NotFound")

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).removeprefix("/api/models")
        user, repository, action, _, file = (*path.strip("/").split("/", 4), *[""] * 5)[:5]
        files = self.server.repositories.get(f"{user}/{repository}")
        if files is None:
            self.not_found("RepoNotFound")
        elif action == "":
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": f"{user}/{repository}", "sha": COMMIT, "siblings": siblings, "tags": []})
        elif action == "resolve" and file in files:
            tag = hashlib.sha1(files[file]).hexdigest()
            self.answer(files[file], headers={"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        else:
            self.not_found("EntryNotFound")

    do_HEAD = do_GET  # noqa: N815


@contextmanager
def running_hub():
    """Serves an empty [`Hub`] until the block ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
