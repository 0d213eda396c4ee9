"""The home side: ingress, verdict, catalog, targets, fan-out, export and the state of 3-2-1.

Nouns: upload, verdict, segment, copy, target, recovery point, receipt. Rules live in the pure modules
`verdict`, `gaps`, `placement`; nothing about sources or sealing lives here. Never imports `agent`.
"""
