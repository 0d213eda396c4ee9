"""The server side: sources, sealer, outbox and push. It may only add at home, never read back.

Nouns: source, stream, origin (one life of one file), chunk, segment, outbox, cursor. Rules live in
the pure modules `identity`, `lifecycle`, `recovery`, `budget`; nothing about targets or catalogs
lives here. Never imports `receiver`.
"""
