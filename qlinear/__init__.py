"""Reference arithmetic for INT8 inference, equal to ONNX Runtime bit for bit."""

import os

# ONNX Runtime reads it when it is imported: without it, it writes a device id and an event file
# into the user's cache folder and tries to send events
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0.dev0"
