"""`ostnode run` and `ostnode dev`: the node itself."""

from __future__ import annotations
