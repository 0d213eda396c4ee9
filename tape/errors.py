"""Every error Hometape raises on purpose: one tree, each with a code, a hint, an exit code.

Messages are lower case, the fact first; `hint` names the next command or step. `retryable` says
whether the same call may succeed later without anybody changing anything. Exit codes follow the
monitoring convention up to 3 and sysexits above.
"""

from typing import ClassVar


class HometapeError(Exception):
    """Root of the tree. `str(error)` is the fact; `error.hint` is what to do next (may be empty)."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 2
    retryable: ClassVar[bool] = False
    default_hint: ClassVar[str] = ""

    def __init__(self, fact: str, *, hint: str | None = None) -> None:
        super().__init__(fact)
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return str(self.args[0])

    def lines(self) -> list[str]:
        """The message as it is shown: the fact, then a `hint:` line if there is one."""
        return [str(self)] + ([f"hint: {self.hint}"] if self.hint else [])


class UsageError(HometapeError):
    """The command line is wrong."""

    code = "usage"
    exit_code = 64
    default_hint = "add --help to see what the command takes"


class ConfigError(HometapeError):
    """A configuration file is missing, can't be read, or has a wrong key or value."""

    code = "config"
    exit_code = 78
    default_hint = "run `check` after editing the file; configs/ holds every option, annotated"


class NameRefused(HometapeError, ValueError):
    """A name of an agent, stream, epoch or segment does not follow the grammar."""

    code = "name"
    exit_code = 65


class SegmentError(HometapeError):
    """A segment file is damaged, foreign, or does not hold what its footer says."""

    code = "segment"
    exit_code = 65
    default_hint = "run `tape-receiver verify` to see what else is affected"


class DigestMismatch(SegmentError):
    """Bytes do not have the digest that their name or record states."""

    code = "digest"


class BundleError(HometapeError):
    """A bundle is damaged or breaks its limits."""

    code = "bundle"
    exit_code = 65


class ReceiptError(HometapeError):
    """A receipt is damaged, foreign, older than one already seen, or its signature is wrong."""

    code = "receipt"
    exit_code = 65
    default_hint = "compare `receiver.receipt_key` in agent.toml with what `tape-receiver check` prints"


class InventoryError(HometapeError):
    """The other side's inventory can't be read."""

    code = "inventory"
    exit_code = 65


class StoreError(HometapeError):
    """The outbox or catalog database is damaged, of a newer format, or in use."""

    code = "store"
    exit_code = 74


class StoreLocked(StoreError):
    """Another process holds the state directory."""

    code = "locked"
    exit_code = 75
    retryable = True
    default_hint = "another instance is running: stop it, or use another `state` directory"


class DiskError(HometapeError):
    """The disk refused: full, read-only, vanished, or a failed fsync."""

    code = "disk"
    exit_code = 74


class DiskFull(DiskError):
    """No space left."""

    code = "disk-full"
    exit_code = 73
    retryable = True
    default_hint = "free some space; nothing was lost and work goes on by itself"


class SyncFailed(DiskError):
    """An fsync failed: what was written may be lost, and a retry would lie. Restart and recover."""

    code = "sync-failed"
    default_hint = "check the disk (dmesg, smartctl); restart the service so that it recovers from what is durable"


class AlreadyThere(HometapeError):
    """A file of that name exists and is never replaced."""

    code = "exists"
    exit_code = 73


class SourceError(HometapeError):
    """A source can't be read as configured."""

    code = "source"
    exit_code = 66


class Damaged(SourceError):
    """An archive ends too early or holds what does not decode; all before that point was given out."""

    code = "damaged"
    default_hint = "nothing is needed if the file is still being copied: it is read again when it changes"


class LinkError(HometapeError):
    """The other side can't be reached, or the connection broke."""

    code = "link"
    exit_code = 69
    retryable = True
    default_hint = "the agent tries again by itself; check the receiver with `tape-receiver status`"


class AuthError(HometapeError):
    """A host key or client key was refused: retrying will not help."""

    code = "auth"
    exit_code = 77
    default_hint = "compare the pinned keys: `tape-agent check` and `tape-receiver check` print both sides"


class Refused(HometapeError):
    """The receiver will not take this upload: it breaks a rule, or contradicts what is held."""

    code = "refused"
    exit_code = 65
    default_hint = "see the receiver's quarantine: `tape-receiver status` names the reason"


class Resend(HometapeError):
    """The upload arrived damaged or could not be made durable; sending it again may succeed."""

    code = "resend"
    exit_code = 75
    retryable = True


class Unsupported(Resend):
    """The other side does not know this kind of request."""

    code = "unsupported"


class TargetError(HometapeError):
    """A target can't do what was asked."""

    code = "target"
    exit_code = 74


class TargetAbsent(TargetError):
    """A target is not there: not mounted, unplugged, vanished share."""

    code = "target-absent"
    exit_code = 69
    retryable = True
    default_hint = "mount or plug in the target; it catches up by itself"


class TargetReadOnly(TargetError):
    """A target takes no writes at the moment."""

    code = "target-read-only"
    retryable = True
    default_hint = "remount it for writing; it catches up by itself"


class TargetRefused(TargetError):
    """A target does not let us in: credentials are wrong, expired, or lack a right."""

    code = "target-refused"
    exit_code = 77
    default_hint = "check its credentials: `tape-receiver remote test`"


class TargetBusy(TargetError):
    """A target asks to be left alone for a while: a rate limit, a quota of the day."""

    code = "target-busy"
    exit_code = 75
    retryable = True
    default_hint = "nothing is needed: it is tried again later; lower `requests` if that happens often"


class NotFound(HometapeError):
    """What was asked for does not exist: a stream, a target, a segment."""

    code = "not-found"
    exit_code = 66


class ExportError(HometapeError):
    """An export can't be made complete or does not match its recorded digests."""

    code = "export"
    exit_code = 65


def every() -> list[type[HometapeError]]:
    """All classes of the tree, root first, in the order of their definition."""
    found: list[type[HometapeError]] = []

    def walk(kind: type[HometapeError]) -> None:
        found.append(kind)
        for child in kind.__subclasses__():
            walk(child)

    walk(HometapeError)
    return found
