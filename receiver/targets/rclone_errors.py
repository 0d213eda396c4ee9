"""What rclone says, as what it means for a target: waiting, alarming, or one file's own trouble.

rclone's exit codes tell little (1 stands for almost everything), so the texts of the stores are read as well. The
order counts: a full Google Drive answers 403 as a wrong key does, and so does one that asks for patience.
"""

import re
from collections.abc import Collection

from receiver.targets.rclone import Ended
from tape.errors import (
    AlreadyThere,
    DiskFull,
    HometapeError,
    NotFound,
    TargetAbsent,
    TargetBusy,
    TargetError,
    TargetReadOnly,
    TargetRefused,
)

DIRECTORY_NOT_FOUND, FILE_NOT_FOUND, TEMPORARY, IMMUTABLE, FATAL = 3, 4, 5, 6, 7
_STATUS = r"(?:status ?code|http[ /.\d]*|error|code|status)[ :=\"']*{0}\b|\b{0} (?:{1})"

_FULL = re.compile(
    r"storagequotaexceeded|insufficient_?[ ]?space|insufficient_?[ ]?storage|quota ?exceeded|no space left|disk quota"
    r"|not enough (?:free )?space|disk is full|disk[ _]full|storage_cap|usage cap|over ?quota|"
    + _STATUS.format(507, "insufficient"),
    re.IGNORECASE,
)
_BUSY = re.compile(
    r"ratelimitexceeded|rate[ _-]?limit|too[ _]?many[ _]?(?:requests|write)|slow ?down|throttl|dailylimitexceeded"
    r"|requestlimitexceeded|reduce your request rate|" + _STATUS.format(429, "too many"),
    re.IGNORECASE,
)
_WRONG = re.compile(
    r"invalidaccesskeyid|signaturedoesnotmatch|expired_?-?token|token (?:has )?expired|expired_access_token"
    r"|invalid_?[ ]?(?:access_)?(?:token|grant|client|credential)|bad_auth_token|unable to authenticate"
    r"|couldn't fetch token|oauth2|authentication failed|logon failure|requesttimetooskewed|unauthori[sz]ed"
    r"|(?:couldn't|unable to) decrypt|password.{0,20}configuration|knownhosts|host key"
    r"|empty token|no suitable credentials|" + _STATUS.format(401, "unauthori"),
    re.IGNORECASE,
)
_READ_ONLY = re.compile(
    r"read[- ]?only|insufficient ?(?:file)?permissions|permission denied|method ?not ?allowed"
    r"|mkparentdir failed: conflict|" + _STATUS.format(405, "method"),
    re.IGNORECASE,
)
_FORBIDDEN = re.compile(
    r"accessdenied|access (?:is )?denied|allaccessdisabled|forbidden|not ?permitted|no_write_permission|"
    + _STATUS.format(403, "forbidden"),
    re.IGNORECASE,
)
_NO_REMOTE = re.compile(r"didn't find section in config", re.IGNORECASE)
_NOWHERE = re.compile(r"nosuchbucket|bucket .{0,80}not exist|share .{0,80}not", re.IGNORECASE)
_AWAY = re.compile(
    r"connection refused|no such host|network is (?:unreachable|down)|no route to host|timed? ?-?out"
    r"|deadline exceeded"
    r"|connection (?:reset|aborted|lost|closed|timed)|broken pipe|\beof\b|dial tcp|server misbehaving|tls: |x509"
    r"|statuscode: 0\b|use of closed|bad gateway|service unavailable|gateway time|internal ?(?:server )?error"
    r"|temporary failure|host is down|actively refused|forcibly closed|"
    + _STATUS.format("50[0234]", "bad|service|gateway|internal"),
    re.IGNORECASE,
)
_NOT_THERE = re.compile(
    r"(?:object|file|directory|key) (?:was )?not found|nosuchkey|no such file|file does not exist", re.IGNORECASE
)
_CHANGED = re.compile(r"immutable file modified", re.IGNORECASE)
_DAMAGED = re.compile(
    r"failed to authenticate decrypted|hash(?:es)? differ|corrupted on transfer|sizes differ|bad password\?"
    r"|not an encrypted file|file is truncated|unexpected eof",
    re.IGNORECASE,
)
_NOISE = re.compile(r",? ?(?:RequestID|HostID): ?[^,\s]*", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=//)[^/\s@\"]{1,400}@")
_WORDS = re.compile(
    r"(?i)\b((?:x-amz-)?(?:signature|credential|security-token)|(?:access_|refresh_|auth_?)?token|password|passwd|pass|secret"
    r"|api_?key|key|sig|authorization)((?:\"|')?\s*[=:]\s*(?:bearer |basic |\"|')?)[^\s\"'&,;]{3,}"
)
_MOST = 400


def redact(text: str, secrets: Collection[str] = ()) -> str:
    """A text of rclone's without what must not be seen, and without what says nothing."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _NOISE.sub("", _WORDS.sub(r"\1\2***", _IN_URL.sub("***@", text)))


def reason(ended: Ended, secrets: Collection[str] = ()) -> str:
    """The most telling line of a failed run, in short."""
    told = [one for one in ended.errors if one.level in ("error", "critical") and "Attempt " not in one.text]
    lines = told or ended.errors
    text = redact(lines[-1].text, secrets) if lines else f"rclone ended with code {ended.code}"
    text = " ".join(text.split())
    return text if len(text) <= _MOST else f"{text[:_MOST]} ..."


def fault_of(
    name: str, ended: Ended, *, secrets: Collection[str] = (), doing: str = "", writing: bool = False
) -> HometapeError:
    """What a failed run means for the target. writing: whether a missing right to write is what may be wrong."""
    return fault_of_text(name, ended.text, reason(ended, secrets), code=ended.code, doing=doing, writing=writing)


def fault_of_text(
    name: str, text: str, why: str, *, code: int = 1, doing: str = "", writing: bool = False
) -> HometapeError:
    """As `fault_of`, from a text. `why`: the part of it that may be shown."""
    fact = f"target {name}: {doing + ': ' if doing else ''}{why}"
    if _CHANGED.search(text) or code == IMMUTABLE:
        return AlreadyThere(fact)
    if _FULL.search(text):
        return DiskFull(fact, hint="free some space there, or raise its quota; it goes on by itself")
    if _BUSY.search(text):
        return TargetBusy(fact)
    if _NO_REMOTE.search(text):
        return TargetAbsent(
            fact, hint="`tape-receiver remote add` makes a remote; or set `rclone_config` of the target to where it is"
        )
    if _NOWHERE.search(text):
        return TargetAbsent(
            fact, hint="make the bucket or remote, or correct `remote` of this target: `tape-receiver remote list`"
        )
    if _WRONG.search(text):
        return TargetRefused(fact, hint=f"renew its credentials, then `tape-receiver remote test {name}`")
    if _READ_ONLY.search(text) or _FORBIDDEN.search(text):
        if writing:
            return TargetReadOnly(fact, hint="give its key the right to write there; it catches up by itself")
        return TargetRefused(fact, hint=f"check the rights of its key, then `tape-receiver remote test {name}`")
    if _AWAY.search(text) or code == TEMPORARY:
        return TargetAbsent(fact, hint="nothing is needed if the line is down; it catches up by itself")
    if code in (DIRECTORY_NOT_FOUND, FILE_NOT_FOUND) or _NOT_THERE.search(text):
        return NotFound(fact)
    return TargetError(fact, hint=f"`tape-receiver remote test {name}` shows what works there")


def is_damage(text: str) -> bool:
    """Whether a message about one file says that its bytes are not what they should be."""
    return bool(_DAMAGED.search(text))


def is_missing(text: str) -> bool:
    """Whether a message about one file says that it is not there."""
    return bool(_NOT_THERE.search(text))
