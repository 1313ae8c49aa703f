"""A second oracle: files of TensorFlow Lite, recomputed as LiteRT's kernels compute them.

``model`` reads a ``.tflite`` file, ``reference`` and ``xnnpack`` hold the operators, ``litert``
runs the file, ``verdict`` compares the two, ``command`` is the command line's part.
"""
