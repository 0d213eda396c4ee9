"""Places copies live: the contract, and one module per kind. Retry and limits are wrappers, never inside a target."""
