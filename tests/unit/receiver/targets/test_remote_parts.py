"""The parts of a remote that can be shown without one: errors, listings, sums, kinds, switches."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import xxhash

from receiver.targets.contract import SUMS, Parcel
from receiver.targets.rclone import Ended, Rclone, Told, bwlimit, environment
from receiver.targets.rclone_errors import fault_of, fault_of_text, redact
from receiver.targets.rclone_kinds import _from_environment, _resolve, new_hash, secrets_of
from receiver.targets.remote_list import Sorted, order, parse_line
from receiver.targets.remote_stage import Stage, common_root
from receiver.targets.remote_sums import RemoteSums
from receiver.timetable import Timetable
from tape.clock import ManualClock
from tape.digest import xxh3
from tape.durable import DISK
from tape.errors import (
    AlreadyThere,
    ConfigError,
    DiskFull,
    HometapeError,
    NotFound,
    TargetAbsent,
    TargetBusy,
    TargetError,
    TargetReadOnly,
    TargetRefused,
)

SAID: list[tuple[str, bool, type[HometapeError]]] = [
    (
        "operation error S3: PutObject, https response error StatusCode: 0, dial tcp: connection refused",
        True,
        TargetAbsent,
    ),
    ("dial tcp: lookup no-such-host.invalid on 127.0.0.53:53: no such host", False, TargetAbsent),
    ("https response error StatusCode: 503, api error SlowDown: Please reduce your request rate.", True, TargetBusy),
    ("googleapi: Error 403: User Rate Limit Exceeded, userRateLimitExceeded", True, TargetBusy),
    ("googleapi: Error 403: The user's Drive storage quota has been exceeded., storageQuotaExceeded", True, DiskFull),
    ("googleapi: Error 403: Rate Limit Exceeded, dailyLimitExceeded", False, TargetBusy),
    ("path/insufficient_space/...", True, DiskFull),
    ("too_many_write_operations/...", True, TargetBusy),
    ("Cannot upload files, storage cap exceeded. (403 storage_cap_exceeded)", True, DiskFull),
    ("Insufficient Storage: 507 Insufficient Storage", True, DiskFull),
    ("HTTP error 429 (429 Too Many Requests) returned body", False, TargetBusy),
    ("StatusCode: 403, api error InvalidAccessKeyId: does not exist in our records.", True, TargetRefused),
    ("StatusCode: 403, api error SignatureDoesNotMatch: The request signature", False, TargetRefused),
    ("StatusCode: 400, api error ExpiredToken: The provided token has expired.", False, TargetRefused),
    ("couldn't fetch token: invalid_grant: maybe token expired?", False, TargetRefused),
    ("ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password]", False, TargetRefused),
    ("knownhosts: key mismatch", False, TargetRefused),
    ("read metadata failed: Unauthorized: 401 Unauthorized", False, TargetRefused),
    ("StatusCode: 403, api error AccessDenied: Access Denied", True, TargetReadOnly),
    ("StatusCode: 403, api error AccessDenied: Access Denied", False, TargetRefused),
    ('mkdir failed: sftp: "Permission Denied" (SSH_FX_PERMISSION_DENIED)', True, TargetReadOnly),
    ('open failed: sftp: "Permission Denied" (SSH_FX_PERMISSION_DENIED)', False, TargetRefused),
    ("read tcp 10.0.0.1:50000->10.0.0.2:443: i/o timeout", True, TargetAbsent),
    ("Bad Gateway: 502 Bad Gateway", True, TargetAbsent),
    ("immutable file modified", True, AlreadyThere),
    ("api error NoSuchBucket: The specified bucket does not exist", True, TargetAbsent),
    ('didn\'t find section in config file ("nas")', False, TargetAbsent),
    ("object not found", False, NotFound),
    ("Failed to send to output: file does not exist", False, NotFound),
    ("something that nobody has seen before", True, TargetError),
]


@pytest.mark.parametrize(("text", "writing", "kind"), SAID, ids=[f"{text[:40]} {writing}" for text, writing, _ in SAID])
def test_tells_what_an_error_of_a_store_means(text: str, writing: bool, kind: type[HometapeError]) -> None:
    """Each text that a store answers with is the fault that it is: waiting, full, refused, read-only, not there."""
    fault = fault_of_text("nas", text, text, writing=writing)
    assert type(fault) is kind, fault
    if not isinstance(fault, NotFound | AlreadyThere):
        assert fault.hint


@pytest.mark.parametrize(("code", "kind"), [(3, NotFound), (5, TargetAbsent), (6, AlreadyThere), (7, TargetError)])
def test_an_exit_code_counts_where_the_text_says_nothing(code: int, kind: type[HometapeError]) -> None:
    """Directory not found, temporary, immutable violated, fatal."""
    assert type(fault_of("nas", Ended(code, errors=[Told("error", "hm")]))) is kind


def test_shows_no_secret() -> None:
    """Passwords in addresses, tokens, signatures and what is known to be secret are taken out of messages."""
    said = (
        'Propfind "https://me:hunter2@cloud.example/x?X-Amz-Signature=abcdef123&a=1": token=ya29.abc, '
        'Authorization: Bearer eyJhbGciOi, "refresh_token":"1//0abc", key c2VjcmV0 RequestID: 8A3F'
    )
    shown = redact(said, ["c2VjcmV0"])
    for secret in ("hunter2", "abcdef123", "ya29", "eyJhbGciOi", "1//0abc", "c2VjcmV0", "8A3F"):
        assert secret not in shown
    assert "cloud.example" in shown


def test_runs_are_not_changed_by_a_persons_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that would change what a run does, or log what is secret, are not passed on; remotes in them are."""
    for name in ("RCLONE_DRY_RUN", "RCLONE_DUMP", "RCLONE_LOG_FILE", "RCLONE_EXCLUDE_FROM", "RCLONE_MAX_SIZE"):
        monkeypatch.setenv(name, "true")
    for name in ("RCLONE_CONFIG", "RCLONE_CONFIG_PASS", "RCLONE_CONFIG_NAS_TYPE", "RCLONE_S3_REGION"):
        monkeypatch.setenv(name, "kept")
    found = environment()
    assert {name for name in found if found[name] == "kept"} >= {"RCLONE_CONFIG", "RCLONE_CONFIG_PASS"}
    assert not {"RCLONE_DRY_RUN", "RCLONE_DUMP", "RCLONE_LOG_FILE", "RCLONE_EXCLUDE_FROM", "RCLONE_MAX_SIZE"} & set(
        found
    )
    assert found["RCLONE_ASK_PASSWORD"] == "false"


@pytest.mark.parametrize(
    ("text", "switch"),
    [
        ("", ""),
        ("off", ""),
        ("2 MiB", "2097152B"),
        ("08:00 1 MiB, 23:00 off", "08:00,1048576B 23:00,off"),
    ],
)
def test_a_timetable_becomes_rclones_own(text: str, switch: str) -> None:
    """A rate by the time of day is kept by rclone itself, while a run lasts."""
    assert bwlimit(Timetable.parse(text).steps) == switch


def test_lists_a_million_in_order_with_little_memory(tmp_path: Path) -> None:
    """Names in any order come back sorted part by part, from runs in files."""
    names = [f"bot/s{'-' * (n % 3)}/date=2026-01-{n % 28 + 1:02}/{n * 7919 % 5000:05}" for n in range(5000)]
    found = Sorted(tmp_path, run=300)
    for number, name in enumerate(names):
        found.add(name, number)
    assert len(list(tmp_path.iterdir())) > 10
    assert list(found) == sorted(
        ((name, n) for n, name in enumerate(names)), key=lambda pair: (order(pair[0]), pair[1])
    )


def test_reads_a_listing_line_by_line() -> None:
    """Lines of `lsjson` are entries, its brackets are not, and anything else is an error."""
    line = b'{"Path":"a/b","Name":"b","Size":7,"IsDir":false,"Hashes":{"md5":"00"}},\n'
    assert parse_line(line) == ("a/b", 7, {"md5": "00"})
    assert [parse_line(bracket) for bracket in (b"[\n", b"]\n", b"\n")] == [None] * 3
    with pytest.raises(TargetError):
        parse_line(b"hello\n")


CONFIG = {
    "aws": {"type": "s3", "secret_access_key": "VERYSECRET", "access_key_id": "AKID12345"},
    "short": {"type": "alias", "remote": "aws:bucket"},
    "cry": {"type": "crypt", "remote": "short:folder", "password": "OBSCURED1", "password2": "OBSCURED2"},
    "loop": {"type": "alias", "remote": "loop:"},
    "parts": {"type": "chunker", "remote": "aws:bucket"},
    "disk": {"type": "alias", "remote": "/mnt/disk"},
}


@pytest.mark.parametrize(
    ("remote", "kind"),
    [
        ("aws:b", ("s3", "")),
        ("short:", ("s3", "")),
        ("cry:", ("crypt", "s3")),
        ("parts:", ("chunker", "")),
        ("disk:", ("local", "")),
    ],
)
def test_finds_the_store_behind_a_remote(remote: str, kind: tuple[str, str]) -> None:
    """Aliases are followed, a crypt tells what it lies on; other stacked kinds count as what they are."""
    assert _resolve(CONFIG, remote) == kind


@pytest.mark.parametrize("windows", [False, True])
def test_a_name_of_one_letter_is_a_drive_on_windows_alone(windows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it is a remote, and proves no more than its kind can: a WebDAV server hands back what it was told."""
    monkeypatch.setattr("receiver.targets.rclone_kinds.WINDOWS", windows)
    config = {"n": {"type": "webdav", "vendor": "nextcloud"}, "cry": {"type": "crypt", "remote": "n:tape"}}
    store = "local" if windows else "webdav"
    assert _resolve(config, "n:tape") == (store, "")
    assert _resolve(config, "cry:x") == ("crypt", store)


def test_a_remote_that_is_not_there_or_goes_in_circles_is_told() -> None:
    """No endless search."""
    with pytest.raises(TargetAbsent, match="no remote"):
        _resolve(CONFIG, "nobody:")
    with pytest.raises(TargetError, match="circle"):
        _resolve(CONFIG, "loop:")


def test_knows_the_secrets_of_what_it_lies_on() -> None:
    """The secrets of a crypt and of its store are known, so that they can be kept out of messages."""
    assert {"VERYSECRET", "OBSCURED1", "OBSCURED2"} <= set(secrets_of({**CONFIG, "short": CONFIG["aws"]}, "cry"))


def test_a_remote_may_live_in_the_environment() -> None:
    """Options in variables make a remote, or replace what the file says."""
    given = {"RCLONE_CONFIG_MY_NAS_TYPE": "sftp", "RCLONE_CONFIG_AWS_REGION": "eu"}
    found = _from_environment(given, CONFIG)
    assert found["my_nas"] == {"type": "sftp"}
    assert found["aws"] == {**CONFIG["aws"], "region": "eu"}


@pytest.mark.parametrize("size", [0, 1, 4 * 2**20 - 1, 4 * 2**20, 9 * 2**20])
def test_checksums_are_those_that_stores_compute(size: int) -> None:
    """XXH3-128 as rclone names it, and Dropbox's own: SHA-256 over those of each 4 MiB."""
    data = os.urandom(size)
    block = 4 * 2**20
    parts = b"".join(hashlib.sha256(data[at : at + block]).digest() for at in range(0, size, block))
    for name, wanted in (
        ("dropbox", hashlib.sha256(parts).hexdigest()),
        ("xxh128", xxhash.xxh3_128_hexdigest(data)),
        ("md5", hashlib.md5(data, usedforsecurity=False).hexdigest()),
    ):
        made = new_hash(name)
        for at in range(0, size, 1_000_003):
            made.update(data[at : at + 1_000_003])
        assert made.hexdigest() == wanted


class Store:
    """A store of SHA256SUMS that may fail."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.sent = 0
        self.broken = False

    def fetch(self, folders: Sequence[str]) -> Mapping[str, bytes]:
        return {folder: self.files[folder] for folder in folders if folder in self.files}

    def send(self, root: Path, paths: Sequence[str]) -> None:
        if self.broken:
            raise TargetAbsent("gone")
        self.sent += 1
        for path in paths:
            self.files[path.removesuffix(f"/{SUMS}")] = (root / path).read_bytes()


def sums_of(folder: Path, store: Store, clock: ManualClock) -> RemoteSums:
    return RemoteSums(folder, fetch=store.fetch, send=store.send, disk=DISK, clock=clock)


def test_sums_are_sent_once_a_minute_and_survive_a_crash(tmp_path: Path) -> None:
    """Many batches cost one upload; what a crash kept from being sent is sent by the next life; old lines stay."""
    store, clock = Store(), ManualClock()
    store.files["a/day"] = b"0" * 64 + b"  old\n"
    sums = sums_of(tmp_path, store, clock)
    for number in range(10):
        sums.note([(f"a/day/{number}", f"{number:064x}"), ("b/day/x", "f" * 64)])
    assert store.sent == 0
    clock.advance(61)
    sums.note([("a/day/last", "e" * 64)])
    assert store.sent == 1
    assert len(store.files["a/day"].splitlines()) == 12
    store.broken = True
    clock.advance(61)
    sums.note([("a/day/later", "d" * 64)])
    with pytest.raises(TargetAbsent):
        sums.flush()
    store.broken = False
    again = sums_of(tmp_path, store, clock)
    again.flush()
    assert set(again.read("a/day")) == {"old", "last", "later", *map(str, range(10))}
    assert b"later" in store.files["a/day"]
    again.drop("a/day/later")
    again.flush()
    assert b"later" not in store.files["a/day"]
    before = store.sent
    again.flush()
    assert store.sent == before


def test_files_below_one_root_are_sent_from_there(tmp_path: Path) -> None:
    """Local files that lie in their places below one folder need no copy; anything else does."""

    def made(path: str, local: Path | None) -> Parcel:
        if local is not None:
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(b"x")
        return Parcel(path, 1, xxh3(b"x"), lambda: [b"x"], local=local)

    below = [made("a/b/1", tmp_path / "a" / "b" / "1"), made("a/2", tmp_path / "a" / "2")]
    assert common_root(below) == tmp_path
    assert common_root([*below, made("a/3", None)]) is None
    assert common_root([*below, made("a/4", tmp_path / "elsewhere" / "a" / "4")]) is None
    assert common_root([made("a/5", tmp_path / "b" / "6")]) is None


def test_scratch_of_processes_that_are_gone_is_cleared(tmp_path: Path) -> None:
    """What a dead process left goes, what a living one uses stays, and notes of what was under way stay."""
    stage = Stage(tmp_path)
    dead = tmp_path / "999999999" / "x"
    dead.mkdir(parents=True)
    with pytest.raises(TargetAbsent), stage.under_way(["a/1"]):
        raise TargetAbsent("cut")
    with stage.fresh() as mine:
        stage.clear()
        assert mine.is_dir()
    assert not dead.exists()
    assert list(stage.left_under_way().values()) == [["a/1"]]
    with stage.under_way(["a/2"]) as step:
        step.clean = True
    assert len(stage.left_under_way()) == 1


def test_a_missing_rclone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither beside the interpreter nor on PATH: an error that says how to get it."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="rclone"):
        Rclone("nas").run("version", patience=None)  # type: ignore[arg-type] # it never comes to that
