"""Backblaze B2 on loopback, as much of its native API as rclone asks for; for rclone serves no such thing itself."""

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "token-of-a-session"


@dataclass
class Kept:
    """One file, as it was uploaded."""

    id: str
    name: str
    data: bytes
    info: dict[str, str]

    @property
    def plain(self) -> dict[str, Any]:
        """What the API tells of it."""
        size = {"size": len(self.data), "contentLength": len(self.data)}
        about = {"action": "upload", "uploadTimestamp": 1_000, "contentType": "application/octet-stream"}
        sha1 = hashlib.sha1(self.data, usedforsecurity=False).hexdigest()
        return {"fileId": self.id, "fileName": self.name, "contentSha1": sha1, "fileInfo": self.info, **size, **about}


@dataclass
class FakeB2:
    """An account with one key and one bucket. `files`: what it keeps, by name; `asked`: each call, in order."""

    account: str
    key: str
    bucket: str
    files: dict[str, Kept] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    made: int = 0

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"b2": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def keep(self, name: str, data: bytes, info: dict[str, str]) -> Kept:
        """Store a file; one of that name is replaced."""
        self.made += 1
        self.files[name] = Kept(f"4_z{self.made:08d}", name, data, info)
        return self.files[name]

    def by_id(self, id_: str) -> Kept | None:
        """The file of an id."""
        return next((kept for kept in self.files.values() if kept.id == id_), None)


class _Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class _Handler(http.server.BaseHTTPRequestHandler):
    b2: FakeB2
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.b2.asked.append(parts.path)
        try:
            answer = self._answer(parts.path, parse_qs(parts.query), body)
        except _Refused as error:
            self._send(error.status, {"status": error.status, "code": error.code, "message": error.code})
            return
        self._send(200, answer)

    def _send(self, status: int, answer: dict[str, Any] | Kept) -> None:
        data = answer.data if isinstance(answer, Kept) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if isinstance(answer, Kept):
            plain = answer.plain
            for header, key in (("File-Id", "fileId"), ("File-Name", "fileName"), ("Content-Sha1", "contentSha1")):
                self.send_header(f"X-Bz-{header}", plain[key])
            self.send_header("X-Bz-Upload-Timestamp", str(plain["uploadTimestamp"]))
            for key, value in answer.info.items():
                self.send_header(f"X-Bz-Info-{key}", value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _answer(self, path: str, query: dict[str, list[str]], body: bytes) -> dict[str, Any] | Kept:
        call = path.rpartition("/")[2]
        if call == "b2_authorize_account":
            return self._authorize()
        if self.headers.get("Authorization") != TOKEN:
            raise _Refused(401, "bad_auth_token")
        if path.startswith("/file/"):
            return self._found(self.b2.files.get(unquote(path).removeprefix(f"/file/{self.b2.bucket}/")))
        if call == "b2_download_file_by_id":
            return self._found(self.b2.by_id(query["fileId"][0]))
        if path == "/upload":
            return self._upload(body)
        steps = {
            "b2_list_buckets": self._buckets,
            "b2_create_bucket": self._create,
            "b2_list_file_names": self._names,
            "b2_get_upload_url": self._place,
            "b2_copy_file": self._copy,
            "b2_hide_file": self._drop,
            "b2_delete_file_version": self._drop,
        }
        if call not in steps:
            raise _Refused(400, f"no call {call}")
        return steps[call](json.loads(body))

    def _authorize(self) -> dict[str, Any]:
        given = base64.b64encode(f"{self.b2.account}:{self.b2.key}".encode()).decode()
        if self.headers.get("Authorization") != f"Basic {given}":
            raise _Refused(401, "unauthorized")
        api = {"apiUrl": self.b2.url, "downloadUrl": self.b2.url, "allowed": {"buckets": [], "capabilities": []}}
        return {"accountId": "a1", "authorizationToken": TOKEN, "apiInfo": {"storageApi": api}}

    @staticmethod
    def _found(kept: Kept | None) -> Kept:
        if kept is None:
            raise _Refused(404, "not_found")
        return kept

    def _buckets(self, asked: dict[str, Any]) -> dict[str, Any]:
        ours = {"bucketId": "b1", "accountId": "a1", "bucketName": self.b2.bucket, "bucketType": "allPrivate"}
        return {"buckets": [ours] if asked.get("bucketName") in (None, "", self.b2.bucket) else []}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Rclone always asks for it before it stores something, and takes "there already" for an answer."""
        raise _Refused(400, "duplicate_bucket_name" if asked["bucketName"] == self.b2.bucket else "too_many_buckets")

    def _names(self, asked: dict[str, Any]) -> dict[str, Any]:
        prefix, delimiter = asked.get("prefix") or "", asked.get("delimiter") or ""
        found: dict[str, dict[str, Any]] = {}
        for name, kept in sorted(self.b2.files.items()):
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folder = prefix + rest.partition(delimiter)[0] + delimiter
                found[folder] = {"action": "folder", "fileName": folder, "size": 0}
            else:
                found[name] = kept.plain
        return {"files": list(found.values()), "nextFileName": None}

    def _place(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"bucketId": asked["bucketId"], "uploadUrl": f"{self.b2.url}/upload", "authorizationToken": TOKEN}

    def _upload(self, body: bytes) -> dict[str, Any]:
        sha1 = self.headers["X-Bz-Content-Sha1"]
        if sha1 == "hex_digits_at_end":
            body, sha1 = body[:-40], body[-40:].decode()
        if hashlib.sha1(body, usedforsecurity=False).hexdigest() != sha1:
            raise _Refused(400, "bad_request")
        headers = {key.lower(): value for key, value in self.headers.items()}
        start = "x-bz-info-"
        info = {key.removeprefix(start): value for key, value in headers.items() if key.startswith(start)}
        return self.b2.keep(unquote(self.headers["X-Bz-File-Name"]), body, info).plain

    def _copy(self, asked: dict[str, Any]) -> dict[str, Any]:
        kept = self._found(self.b2.by_id(asked["sourceFileId"]))
        return self.b2.keep(asked["fileName"], kept.data, kept.info).plain

    def _drop(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self._found(self.b2.files.pop(asked["fileName"], None)).plain
