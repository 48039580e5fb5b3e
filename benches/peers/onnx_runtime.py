"""onnxruntime: MatMulNBits in blocks with int8 activations, dynamic int8 per column, and f32."""

import protocol
from protocol import Variant

# Operators of onnxruntime's own.
DOMAIN = "com.microsoft"


class OnnxRuntime:
    __doc__ = __doc__
    NAME = "onnxruntime"
    SPECS = {
        "int4-32": "MatMulNBits, 4 bits, blocks of 32, accuracy_level 4 (int8 activations)",
        "int4-128": "the same in blocks of 128",
        "int8-32": "MatMulNBits, 8 bits, blocks of 32, accuracy_level 4",
        "int8-128": "the same in blocks of 128",
        "int2-32": "MatMulNBits, 2 bits, blocks of 32, accuracy_level 4",
        "int8": "DynamicQuantizeMatMul, a scale a column",
        "f32": "MatMul",
    }

    def __init__(self, spec, out, inn, threads, sparsity):
        self.out, self.inn, self.threads = out, inn, threads
        block = protocol.weights(out, inn, sparsity)
        kind, _, group = spec.partition("-")
        if kind == "f32":
            self.block = block
            self.parts = {"w": protocol.tiled(block, out)}
            self.node = ("MatMul", "", {})
        elif group:
            self.in_groups(block, int(kind[3:]), int(group))
        else:
            self.by_column(block)
        self.wbytes = sum(part.nbytes for part in self.parts.values())

    @staticmethod
    def version():
        import onnxruntime

        return onnxruntime.__version__

    def in_groups(self, block, bits, group):
        import numpy as np

        zero = 1 << (bits - 1)
        w = block.reshape(len(block), -1, group)
        scale = np.abs(w).max(axis=2) / (zero - 1 if bits > 2 else 1)
        codes = np.rint(w / scale[:, :, None]) + zero
        codes = np.clip(codes, 0, 2 * zero - 1).astype(np.uint8)
        self.block = ((codes.astype(np.float32) - zero) * scale[:, :, None]).reshape(block.shape)
        # Low bits first.
        per_byte = 8 // bits
        codes = codes.reshape(*codes.shape[:2], -1, per_byte)
        packed = np.zeros(codes.shape[:3], dtype=np.uint8)
        for i in range(per_byte):
            packed |= codes[..., i] << (bits * i)
        self.parts = {
            "w": protocol.tiled(packed, self.out),
            "scale": protocol.tiled(scale.astype(np.float32), self.out),
        }
        attributes = dict(K=self.inn, N=self.out, bits=bits, block_size=group, accuracy_level=4)
        self.node = ("MatMulNBits", DOMAIN, attributes)

    def by_column(self, block):
        import numpy as np

        scale = (np.abs(block).max(axis=1) / 127).astype(np.float32)
        codes = np.rint(block / scale[:, None]).astype(np.int8)
        self.block = codes * scale[:, None]
        self.parts = {
            "w": protocol.tiled(codes, self.out),
            "scale": protocol.tiled(scale, self.out),
            "zero": np.zeros(self.out, dtype=np.int8),
        }
        self.node = ("DynamicQuantizeMatMul", DOMAIN, {})

    def session(self, copies, spins):
        """A session that multiplies x with each copy, all different, so that none is shared."""
        import numpy as np
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        kind, domain, attributes = self.node
        nodes, initializers, outputs = [], [], []
        for i in copies:
            inputs = ["x"]
            for name, part in self.parts.items():
                # The first copy as it is, the others with their rows moved.
                part = np.roll(part, i, axis=0)
                part = part.T if name == "w" and kind != "MatMulNBits" else part
                initializers.append(numpy_helper.from_array(np.ascontiguousarray(part), f"{name}{i}"))
                inputs.append(f"{name}{i}")
            nodes.append(helper.make_node(kind, inputs, [f"y{i}"], domain=domain, **attributes))
            outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["B", self.out]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", self.inn])
        graph = helper.make_graph(nodes, "products", [x], outputs, initializers)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
        return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def bind(self, x, copies):
        import numpy as np
        import onnxruntime as ort

        # Small products stand in one graph, as they do in a model; large ones each in a session
        # of its own, whose idle threads must not spin beside another's.
        together = copies if len(x) <= 8 else 1
        calls, first = [], None
        for start in range(0, copies, together):
            mine = range(start, min(start + together, copies))
            session = self.session(mine, spins=together == copies)
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
            results = [np.zeros((len(x), self.out), dtype=np.float32) for _ in mine]
            results = [ort.OrtValue.ortvalue_from_numpy(y) for y in results]
            for i, y in zip(mine, results):
                binding.bind_ortvalue_output(f"y{i}", y)
            first = first or results[0]
            calls.append(lambda s=session, b=binding, keep=results: s.run_with_iobinding(b))
        yield Variant("cpu", calls, together, first.numpy)


if __name__ == "__main__":
    protocol.main(OnnxRuntime)
