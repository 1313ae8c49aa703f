"""The process that LiteRT is in: it opens one file, and runs it for whoever started it.

It imports no more than it needs, so that it starts fast.
"""

import os
import pickle
import sys

import numpy as np


def serve() -> None:
    """Answer what :meth:`qlinear.tflite.litert.Session.ask` sends, until it sends no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what LiteRT prints is no answer
    questions = sys.stdin.buffer
    made = None
    while True:
        try:
            message = pickle.load(questions)
        except EOFError:
            return
        try:
            if made is None:
                made = _opened(*message)
                found = None
            else:
                feeds, wanted = message
                for i, value in feeds.items():
                    made.set_tensor(i, value)
                made.invoke()
                found = [_fetched(made, i) for i in wanted]
        except Exception as error:  # LiteRT raises RuntimeError and ValueError
            lines = str(error).strip().splitlines() or [type(error).__name__]
            pickle.dump(("error", lines[0][:300]), answers)
        else:
            pickle.dump(("found", found), answers)
        answers.flush()


def _fetched(made, i: int) -> np.ndarray | None:
    """A tensor; None where LiteRT has none to give, as of one that nothing reads."""
    try:
        return np.array(made.get_tensor(i))
    except ValueError:
        return None


def _opened(source: bytes, kernels: str, keep: bool):
    from ai_edge_litert import interpreter

    made = interpreter.Interpreter(
        model_content=source, num_threads=1, experimental_preserve_all_tensors=keep,
        experimental_op_resolver_type=getattr(interpreter.OpResolverType, kernels),
    )  # fmt: skip
    made.allocate_tensors()
    return made


if __name__ == "__main__":
    serve()
