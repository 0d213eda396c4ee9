"""Where ticks enter. Each source reads its origins and hands chunks to an `Intake`; it never seals,
stores or sends. What was already sealed it learns from `Positions` at the start.
"""
