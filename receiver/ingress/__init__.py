"""The embedded SFTP server: an add-only view of one inbox per agent; hashes while bytes arrive.

Nouns: caller (a connection), session, spot (what a path means), arrival (an upload on its way into a
private file). SSH is asyncssh's; the SFTP requests are answered here from a list of what is allowed, so
that whatever is not on it does not exist. What becomes of a finished upload is the committer's business.
Floor: I/O; imports the receiver's model and settings, and `tape`.
"""

from receiver.ingress.inbox import clear_inbox
from receiver.ingress.server import Ingress

__all__ = ["Ingress", "clear_inbox"]
