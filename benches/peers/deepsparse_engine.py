"""DeepSparse on a MatMul with pruned f32 weights; the last release, 1.8, in a venv of its own."""

import os
import tempfile

import protocol
from protocol import Variant


class DeepSparse:
    __doc__ = __doc__
    NAME = "deepsparse"
    SPECS = {"f32": "an ONNX MatMul whose weights have zeros"}

    def __init__(self, spec, out, inn, threads, sparsity):
        os.environ["NM_DISABLE_ANALYTICS"] = "1"
        self.threads = threads
        self.block = protocol.weights(out, inn, sparsity)
        self.dense = protocol.tiled(self.block, out)
        # The values; what else the engine keeps it does not tell.
        self.wbytes = int((self.dense != 0).sum()) * 4

    @staticmethod
    def version():
        from importlib.metadata import version

        return version("deepsparse")

    def bind(self, x, copies):
        """One copy, however many are asked for: compiling each takes seconds. So the engine's
        weights may come from the caches where others' come from memory."""
        import numpy as np
        import onnx
        from deepsparse import Engine
        from onnx import TensorProto, helper, numpy_helper

        out, inn = self.dense.shape
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(x), inn])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), out])],
            [numpy_helper.from_array(np.ascontiguousarray(self.dense.T), "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
            onnx.save(model, file.name)
            engine = Engine(file.name, batch_size=len(x), num_cores=self.threads)
        y = []

        def call():
            y[:] = engine.run([x], val_inp=False)

        yield Variant(engine.cpu_avx_type, [call], 1, lambda: y[0])


if __name__ == "__main__":
    protocol.main(DeepSparse)
