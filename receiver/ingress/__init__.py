"""The embedded SFTP server: an add-only view of one inbox per agent; hashes while bytes arrive."""
