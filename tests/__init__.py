"""Tests: unit (mirrors the modules), contract, simulation, process, golden, wine; support for all of them."""
