"""ggml, the tensor library of llama.cpp, through the shared libraries of llama-cpp-python."""

import ctypes as c
import importlib.util
import pathlib

import protocol
from protocol import Variant

# `enum ggml_type`
TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ4_NL": 20,
    "IQ4_XS": 23,
    "BF16": 30,
}

Pointer = c.c_void_p


class InitParams(c.Structure):
    _fields_ = [("mem_size", c.c_size_t), ("mem_buffer", Pointer), ("no_alloc", c.c_bool)]


ToFloat = c.CFUNCTYPE(None, Pointer, Pointer, c.c_int64)


class TypeTraits(c.Structure):
    _fields_ = [
        ("type_name", c.c_char_p),
        ("blck_size", c.c_int64),
        ("blck_size_interleave", c.c_int64),
        ("type_size", c.c_size_t),
        ("is_quantized", c.c_bool),
        ("to_float", ToFloat),
        ("from_float_ref", Pointer),
    ]


def load():
    """Both libraries' functions, by name."""
    spec = importlib.util.find_spec("llama_cpp")
    folder = pathlib.Path(spec.origin).parent / "lib"
    libraries = [c.CDLL(folder / name, c.RTLD_GLOBAL) for name in ["libggml-base.so", "libggml-cpu.so"]]

    def bind(name, result, *arguments):
        for library in libraries:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
                return function
        raise RuntimeError(f"this ggml has no {name}")

    class Ggml:
        init = bind("ggml_init", Pointer, InitParams)
        free = bind("ggml_free", None, Pointer)
        version = bind("ggml_version", c.c_char_p)
        new_tensor_2d = bind("ggml_new_tensor_2d", Pointer, Pointer, c.c_int, c.c_int64, c.c_int64)
        mul_mat = bind("ggml_mul_mat", Pointer, Pointer, Pointer, Pointer)
        row_size = bind("ggml_row_size", c.c_size_t, c.c_int, c.c_int64)
        traits = bind("ggml_get_type_traits", c.POINTER(TypeTraits), c.c_int)
        quantize_chunk = bind(
            "ggml_quantize_chunk", c.c_size_t, c.c_int, Pointer, Pointer,
            c.c_int64, c.c_int64, c.c_int64, Pointer,
        )
        new_graph = bind("ggml_new_graph_custom", Pointer, Pointer, c.c_size_t, c.c_bool)
        graph_overhead = bind("ggml_graph_overhead_custom", c.c_size_t, c.c_size_t, c.c_bool)
        tensor_overhead = bind("ggml_tensor_overhead", c.c_size_t)
        expand = bind("ggml_build_forward_expand", None, Pointer, Pointer)
        cpu_init = bind("ggml_backend_cpu_init", Pointer)
        set_threads = bind("ggml_backend_cpu_set_n_threads", None, Pointer, c.c_int)
        get_device = bind("ggml_backend_get_device", Pointer, Pointer)
        reg = bind("ggml_backend_cpu_reg", Pointer)
        proc_address = bind("ggml_backend_reg_get_proc_address", Pointer, Pointer, c.c_char_p)
        cpu_buffer_type = bind("ggml_backend_cpu_buffer_type", Pointer)
        buffer_type_name = bind("ggml_backend_buft_name", c.c_char_p, Pointer)
        supports_op = bind("ggml_backend_dev_supports_op", c.c_bool, Pointer, Pointer)
        alloc = bind("ggml_backend_alloc_ctx_tensors_from_buft", Pointer, Pointer, Pointer)
        free_buffer = bind("ggml_backend_buffer_free", None, Pointer)
        tensor_set = bind("ggml_backend_tensor_set", None, Pointer, Pointer, c.c_size_t, c.c_size_t)
        tensor_get = bind("ggml_backend_tensor_get", None, Pointer, Pointer, c.c_size_t, c.c_size_t)
        compute = bind("ggml_backend_graph_compute", c.c_int, Pointer, Pointer)

    return Ggml


class Context:
    """Tensors of one buffer type; frees its memory with itself."""

    def __init__(self, ggml, tensors, graph_nodes=0):
        self.ggml, self.buffer = ggml, None
        size = tensors * ggml.tensor_overhead() + 4096
        if graph_nodes:
            size += ggml.graph_overhead(graph_nodes, False)
        self.pointer = ggml.init(InitParams(size, None, True))

    def alloc(self, buffer_type):
        self.buffer = self.ggml.alloc(self.pointer, buffer_type)
        if not self.buffer:
            raise MemoryError("ggml gives no buffer")

    def __del__(self):
        if self.buffer:
            self.ggml.free_buffer(self.buffer)
        self.ggml.free(self.pointer)


class Ggml:
    __doc__ = __doc__
    NAME = "ggml"
    SPECS = TYPES

    def __init__(self, spec, out, inn, threads, sparsity):
        import numpy as np

        self.np, self.ggml, self.out, self.inn = np, load(), out, inn
        self.type = TYPES[spec]
        ggml = self.ggml
        block = protocol.weights(out, inn, sparsity)
        row = ggml.row_size(self.type, inn)
        coded = np.empty((len(block), row), dtype=np.uint8)
        ggml.quantize_chunk(self.type, block.ctypes.data, coded.ctypes.data, 0, len(block), inn, None)
        # What the weights are after rounding.
        self.block = np.empty_like(block)
        if spec == "F32":
            self.block[:] = block
        else:
            ggml.traits(self.type).contents.to_float(coded.ctypes.data, self.block.ctypes.data, block.size)
        self.coded = protocol.tiled(coded, out)
        self.wbytes = self.coded.nbytes
        self.backend = ggml.cpu_init()
        ggml.set_threads(self.backend, threads)
        self.weights = {}

    @staticmethod
    def version():
        from importlib.metadata import version

        return f"{load().version().decode()} (llama-cpp-python {version('llama-cpp-python')})"

    def buffer_types(self):
        """The plain one, and those that keep weights in another order."""
        yield self.ggml.cpu_buffer_type()
        address = self.ggml.proc_address(self.ggml.reg(), b"ggml_backend_dev_get_extra_bufts")
        if address:
            get = c.CFUNCTYPE(c.POINTER(Pointer), Pointer)(address)
            for buffer_type in get(self.ggml.get_device(self.backend)):
                if not buffer_type:
                    return
                yield buffer_type

    def copies_in(self, buffer_type, copies):
        """At least so many copies of the weights in this buffer type, kept for later batches;
        `None` if it does not take them."""
        ggml, name = self.ggml, self.ggml.buffer_type_name(buffer_type)
        have = self.weights.setdefault(name, [])
        while have is not None and len(have) < copies:
            context = Context(ggml, 1)
            w = ggml.new_tensor_2d(context.pointer, self.type, self.inn, self.out)
            context.alloc(buffer_type)
            if not have and not self.supported(w):
                self.weights[name] = None
                return None
            ggml.tensor_set(w, self.coded.ctypes.data, 0, self.wbytes)
            have.append((context, w))
        return have

    def supported(self, w):
        probe = Context(self.ggml, 2)
        x = self.ggml.new_tensor_2d(probe.pointer, 0, self.inn, 1)
        y = self.ggml.mul_mat(probe.pointer, w, x)
        return self.ggml.supports_op(self.ggml.get_device(self.backend), y)

    def bind(self, x, copies):
        # Small products stand in one graph, as they do in a model.
        together = min(8, copies) if len(x) <= 8 else 1
        for buffer_type in self.buffer_types():
            weights = self.copies_in(buffer_type, copies)
            if weights is None:
                continue
            graphs = []
            for first in range(0, copies, together):
                some = [w for _, w in weights[first : first + together]]
                some += [w for _, w in weights[: together - len(some)]]
                graphs.append(self.graph(x, some))
            name = self.ggml.buffer_type_name(buffer_type).decode().lower()
            yield Variant(
                f"{name}",
                [lambda g=g: self.ggml.compute(self.backend, g[1]) for g in graphs],
                together,
                lambda g=graphs[0]: self.read(g[2], len(x)),
            )

    def graph(self, x, weights):
        """A graph of the products of x with each of the weights."""
        ggml = self.ggml
        nodes = max(16, len(weights) * 2)
        context = Context(ggml, 1 + len(weights), nodes)
        x_tensor = ggml.new_tensor_2d(context.pointer, 0, self.inn, len(x))
        results = [ggml.mul_mat(context.pointer, w, x_tensor) for w in weights]
        graph = ggml.new_graph(context.pointer, nodes, False)
        for result in results:
            ggml.expand(graph, result)
        context.alloc(ggml.cpu_buffer_type())
        ggml.tensor_set(x_tensor, x.ctypes.data, 0, x.nbytes)
        return context, graph, results[0]

    def read(self, tensor, batch):
        y = self.np.empty((batch, self.out), dtype=self.np.float32)
        self.ggml.tensor_get(tensor, y.ctypes.data, 0, y.nbytes)
        return y


if __name__ == "__main__":
    protocol.main(Ggml)
