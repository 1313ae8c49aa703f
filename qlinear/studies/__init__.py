"""The hardware study of a network: which cheaper arithmetic it bears, on a reader's own data.

``settings`` says what is studied, ``arithmetic`` what it does to a layer, ``measure`` counts on one
batch, ``workers`` shares the batches out and keeps what is finished, ``study`` is the whole, and
``report`` makes tables and a page of it. ``qlinear study`` is the command.
"""
