"""Operands that most lines of the tables use."""

from __future__ import annotations

from .calls import X

V = X((4,))
M = X((2, 3))
A = X((2, 3, 4))
S = X(())
P = X((2, 3), 0.3, 2.0)  # positive
U = X((2, 3), -0.9, 0.9)  # inside (-1, 1)
G = X((2, 3), 1.1, 3.0)  # above 1
INT = X((2, 3), -4, 4, "int64")
ROW = X((3,))
B = X((2, 3), dtype="bool")
IDX = X((2, 3), 0, 2, "int64")
IV = X((4,), 0, 2, "int64")
