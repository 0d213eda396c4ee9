"""Places copies live: the contract, and one module per kind. Retry and limits are wrappers, never inside a target.

Nouns: target, place, parcel, proof, state. `contract` says what each can do, `directory` and `memory`
are two kinds, `marker` tells whose folder it is, `sums` keeps SHA256SUMS. Which segments go where is
decided elsewhere (receiver.placement, receiver.fanout); nothing here knows the catalog.
"""
