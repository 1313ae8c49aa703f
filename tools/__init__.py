"""How the book is made: chapter helpers, figures, site, PDF."""

import qlinear  # noqa: F401  # before onnxruntime: it switches telemetry off
