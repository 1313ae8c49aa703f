"""Reference arithmetic for INT8 inference, equal to ONNX Runtime bit for bit."""
