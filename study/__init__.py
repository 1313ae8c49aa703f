"""How the models were made and measured; nothing in qlinear imports from here."""

import qlinear  # noqa: F401  # before onnxruntime: it switches telemetry off
