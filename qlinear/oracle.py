"""What ONNX Runtime computes from a file: the graph's outputs, and tensors of the graph it runs."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from qlinear import ort
from qlinear.errors import Refused
from qlinear.fuse import Network, candidates, fuse
from qlinear.onnx_model import Model

import onnxruntime


def settle(model: Model, feeds: dict[str, np.ndarray]) -> Network:
    """The network that a file denotes, in the first session that runs it on these inputs.

    Args:
        feeds: the graph's inputs by name.

    Raises:
        Refused: ONNX Runtime runs the file in none of them; the message is the first one's.
    """
    errors: list[Refused] = []
    for settings in candidates(model):
        try:
            network = fuse(model, settings)
            outputs(model, open_file(model, network.settings), feeds)
            outputs(model, open_graph(network, ()), feeds)
        except Refused as error:
            errors.append(error)
        else:
            return network
    raise errors[0]


def open_file(model: Model, settings: ort.Settings) -> onnxruntime.InferenceSession:
    """A session of the file, unmodified.

    Raises:
        Refused: ONNX Runtime refuses it.
    """
    try:
        return ort.open_session(model.source, settings)
    except Exception as error:  # onnxruntime raises types of its own
        raise ort.refused(model.path, error) from None


def open_graph(network: Network, names: Iterable[str]) -> onnxruntime.InferenceSession:
    """A session of the graph that ONNX Runtime makes of the file, which hands out these tensors.

    The graph is not optimized again, so it stays as it is. Only where exact products need their
    rewriting of weights it is; no fusion is left then that the tensors asked for would not block.

    Raises:
        Refused: ONNX Runtime refuses it.
    """
    settings = network.settings
    if ort.EXACT not in settings.entries:
        settings = replace(settings, level=ort.Level.ORT_DISABLE_ALL)
    wanted = [n for n in dict.fromkeys(names) if n not in network.graph.constants]
    wanted = [n for n in wanted if n not in network.graph.inputs]
    proto = ort.with_outputs(network.graph, dict.fromkeys([*wanted, *network.graph.outputs]))
    try:
        return ort.open_session(proto, settings)
    except Exception as error:
        raise ort.refused(network.file.path, error) from None


def outputs(
    model: Model,
    session: onnxruntime.InferenceSession,
    feeds: dict[str, np.ndarray],
    names: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
    """What a session computes, by name: all its outputs, or those named.

    Raises:
        Refused: ONNX Runtime refuses the inputs.
    """
    names = list(names) if names is not None else [o.name for o in session.get_outputs()]
    try:
        return dict(zip(names, ort.run_session(session, names, feeds), strict=True))
    except Exception as error:
        raise ort.refused(model.path, error) from None
