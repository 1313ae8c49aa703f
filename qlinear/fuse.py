"""From a file to the integer network that it denotes: the graph that ONNX Runtime runs.

In QDQ form a quantized layer is written with float operators between DequantizeLinear and
QuantizeLinear nodes. Which of these patterns become one integer operator is ONNX Runtime's choice,
made when it loads the file; so we ask it for the graph that it runs, in a session whose settings
are stated, and read that. A float operator that it leaves, or fuses with another, is in that graph
as it runs.
"""

from collections import Counter
from dataclasses import dataclass, replace

from qlinear import ort
from qlinear.errors import UnusableInput
from qlinear.onnx_model import Model, Node, from_proto
from qlinear.quantized import INTEGER_MAC, reads

BOUNDARY = ("QuantizeLinear", "DequantizeLinear")
ABSORBED = (*BOUNDARY, "Relu", "Clip", "Identity", "Cast", "Transpose", "Reshape")


@dataclass(frozen=True)
class Fusion:
    """One node of the graph that ONNX Runtime runs, and the file's nodes that it stands for."""

    made: Node
    absorbed: tuple[Node, ...]

    def __str__(self) -> str:
        return f"{' + '.join(n.operator for n in self.absorbed)} -> {self.made.operator}"


@dataclass(frozen=True)
class Network:
    """A file, the graph that ONNX Runtime makes of it, and in which session."""

    file: Model
    graph: Model
    settings: ort.Settings
    fusions: tuple[Fusion, ...]

    def node(self, name: str) -> Node:
        """The node of the graph with a name of the file: a node's, or a tensor's that it writes.

        Raises:
            UnusableInput: there is none, or several.
        """
        if any(name == n.name or name in n.outputs for n in self.graph.nodes):
            return self.graph.node(name)
        made = [f.made for f in self.fusions if any(name == n.name for n in f.absorbed)]
        if len(made) == 1:
            return made[0]
        if made:
            names = ", ".join(node.name for node in made)
            raise UnusableInput(f"{self.file.path}: {name} is part of several nodes; name {names}")
        if any(name == n.name or name in n.outputs for n in self.file.nodes):
            raise UnusableInput(
                f"{self.file.path}: ONNX Runtime runs {name} inside another node; see inspect"
            )
        return self.graph.node(name)

    def kinds(self) -> str:
        """What the fusions made, counted: "9 QLinearConv, 3 com.microsoft.QLinearAdd"."""
        counts = Counter(f.made.operator for f in self.fusions)
        return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "nothing"


def fuse(model: Model, settings: ort.Settings | None = None) -> Network:
    """Let ONNX Runtime load a file, and read the graph that it runs.

    Args:
        settings: of the session; by default the first of :func:`candidates` that opens the file.

    Raises:
        Refused: ONNX Runtime refuses the file.
    """
    if settings is None:
        opens = [each for each in candidates(model) if _opens(model, each)]
        settings = opens[0] if opens else ort.Settings()
    graph = in_order(from_proto(ort.optimized(model, settings), model.path))
    if _quantizes_float_again(model, graph):
        settings = replace(settings, entries=(*settings.entries, ort.UNFUSED))
        graph = in_order(from_proto(ort.optimized(model, settings), model.path))
    chosen = _with_exact_products(model, graph, settings)
    fusions = list(_fusions(model, graph))
    names = {f.made.outputs: _name(f) for f in fusions}
    nodes = tuple(replace(n, name=names.get(n.outputs, n.name)) for n in graph.nodes)
    made = {node.outputs: node for node in nodes}
    fusions = tuple(replace(f, made=made[f.made.outputs]) for f in fusions)
    return Network(model, replace(graph, nodes=nodes), chosen, fusions)


def in_order(graph: Model) -> Model:
    """The graph with every node after those that it reads from, as ONNX Runtime runs it.

    A file may list its nodes in any order that ONNX Runtime takes, and so may the graph it saves.
    """
    writer = {name: node for node in graph.nodes for name in node.outputs if name}
    ordered: dict[int, Node] = {}
    for last in graph.nodes:
        waiting = [last]
        while waiting:  # a stack of our own: graphs are deeper than Python's
            node = waiting[-1]
            before = (writer[name] for name in reads(node) if name in writer)
            missing = [n for n in before if id(n) not in ordered and n is not node]
            if missing and len(waiting) <= len(graph.nodes):
                waiting += missing
            else:
                ordered.setdefault(id(node), waiting.pop())
    return replace(graph, nodes=tuple(ordered.values()))


def candidates(model: Model) -> list[ort.Settings]:
    """Sessions in the order in which to try them: the first runs a file's integers as integers.

    Extended optimizations are the furthest level at which a graph does not depend on the
    processor's preferred memory layout. A session that does not open a file, or fails when it runs,
    says nothing about one that does: each optimization has faults of its own.
    """
    plain = [ort.Settings(), ort.Settings(level=ort.Level.ORT_DISABLE_ALL)]
    if any(node.op_type == "DequantizeLinear" for node in model.nodes):
        return [ort.Settings((ort.INT8_QDQ,)), *plain]
    return plain


def _quantizes_float_again(model: Model, graph: Model) -> bool:
    """Whether all that ONNX Runtime fuses is MatMulNBits, which rounds float activations to int8.

    It makes that of a Gemm or MatMul with quantized weights whose activations have 16 bits, or are
    float (qdq_selector_action_transformer.cc, DQMatMulToMatMulNBits; accuracy level 4). The file
    says nothing of such a rounding, and its sums depend on the processor's kernel.
    """
    made = {n.op_type for n in graph.nodes} & set(INTEGER_MAC)
    return made == {"MatMulNBits"} and all(n.op_type not in made for n in model.nodes)


def _with_exact_products(model: Model, graph: Model, settings: ort.Settings) -> ort.Settings:
    """The entry for exact products besides, where x86 without VNNI needs it and it works."""
    if not ort.saturates_without_vnni(graph):
        return settings
    exact = replace(settings, entries=(*settings.entries, ort.EXACT))
    # ONNX Runtime refuses it where two layers share a weight or its zero point
    return exact if _opens(model, exact) else settings


def _opens(model: Model, settings: ort.Settings) -> bool:
    try:
        ort.open_session(model.source, settings)
    except Exception:  # onnxruntime raises types of its own
        return False
    return True


def _name(fusion: Fusion) -> str:
    """The file's name for what a node computes: that of the operator, not of what feeds it."""
    working = [n for n in fusion.absorbed if n.op_type not in ABSORBED] or list(fusion.absorbed)
    return working[0].name if len(working) == 1 else fusion.made.name


def _fusions(model: Model, graph: Model):
    """The nodes of the graph that are not in the file, each with the file's nodes behind it."""
    writer = {name: node for node in model.nodes for name in node.outputs if name}
    kept = {*graph.constants, *(name for node in graph.nodes for name in node.outputs)}
    for made in graph.nodes:
        same = writer.get(next((o for o in made.outputs if o), ""))
        if same is None or (same.operator, same.inputs) == (made.operator, made.inputs):
            continue
        absorbed: dict[int, Node] = {}
        waiting = [name for name in made.outputs if name]
        while waiting:
            node = writer.get(waiting.pop())
            if node is None or id(node) in absorbed:
                continue
            absorbed[id(node)] = node
            waiting += [name for name in node.inputs if name not in kept]
        order = [node for node in model.nodes if id(node) in absorbed]
        # a node with other names for its constants is still itself
        if len(order) > 1 or (order and order[0].operator != made.operator):
            yield Fusion(made, tuple(order))
