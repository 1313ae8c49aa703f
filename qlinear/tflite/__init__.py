"""A second oracle: files of TensorFlow Lite, recomputed as LiteRT's kernels compute them.

``model`` reads a ``.tflite`` file, ``reference`` and ``xnnpack`` hold the operators, ``litert``
runs the file in a process of its own (``serve``), ``verdict`` compares the two, ``golden`` writes
vectors, ``diagnosis`` compares a dump, ``command`` has what the command line prints.
"""
