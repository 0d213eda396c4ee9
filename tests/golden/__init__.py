"""Segments of every format ever written, with the bytes they were made from."""
