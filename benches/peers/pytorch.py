"""torch: int8 with a scale a row by fbgemm and by oneDNN, bf16 and f32 by MKL and oneDNN."""

import protocol
from protocol import Variant


class Torch:
    __doc__ = __doc__
    NAME = "torch"
    SPECS = {
        "int8-fbgemm": "quantized.linear_dynamic, engine fbgemm",
        "int8-onednn": "quantized.linear_dynamic, engine onednn",
        "bf16": "x rounded to bf16, linear, and the result back in f32",
        "f32": "linear",
    }

    def __init__(self, spec, out, inn, threads, sparsity):
        import torch

        self.torch, self.out, self.inn = torch, out, inn
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        block = protocol.weights(out, inn, sparsity)
        kind, _, engine = spec.partition("-")
        if kind == "int8":
            torch.backends.quantized.engine = engine
            scale = torch.from_numpy(abs(block).max(axis=1) / 127).double()
            zero = torch.zeros(len(block), dtype=torch.long)
            block = torch.quantize_per_channel(torch.from_numpy(block), scale, zero, 0, torch.qint8)
            self.block = block.dequantize().numpy()
            self.codes = torch.from_numpy(protocol.tiled(block.int_repr().numpy(), out))
            self.scales = torch.from_numpy(protocol.tiled(scale.numpy(), out))
            self.wbytes = out * inn + out * 4
            self.variants = [self.quantized]
            # Without VNNI sums of two products saturate.
            self.reduce_range = " avx512_vnni" not in cpu_flags() and " avx_vnni" not in cpu_flags()
        else:
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            block = torch.from_numpy(block).to(dtype)
            self.block = block.float().numpy()
            self.dense = block.repeat(-(-out // len(block)), 1)[:out].contiguous()
            self.wbytes = self.dense.nbytes
            self.variants = [self.plain, self.onednn]
        self.copies = {}

    @staticmethod
    def version():
        import torch

        return torch.__version__

    def quantized(self, x):
        torch = self.torch

        def copy(_):
            zero = torch.zeros(self.out, dtype=torch.long)
            w = torch._make_per_channel_quantized_tensor(self.codes, self.scales, zero, 0)
            return torch.ops.quantized.linear_prepack(w, None)

        def call(w):
            return torch.ops.quantized.linear_dynamic(x, w, self.reduce_range)

        return torch.backends.quantized.engine, copy, call

    def plain(self, x):
        linear = self.torch.nn.functional.linear
        if self.dense.dtype == self.torch.float32:
            return "linear", lambda i: self.dense.clone(), lambda w: linear(x, w)
        bf16 = self.torch.bfloat16
        return "linear", lambda i: self.dense.clone(), lambda w: linear(x.to(bf16), w).float()

    def onednn(self, x):
        """Weights in the order that oneDNN likes best for this batch."""
        ops, dtype = self.torch.ops.mkldnn, self.dense.dtype

        def copy(_):
            return ops._reorder_linear_weight(self.dense, len(x))

        def call(w):
            y = ops._linear_pointwise(x.to(dtype), w, None, "none", [], "")
            return y.float()

        return "onednn prepacked", copy, call

    def bind(self, x, copies):
        x_tensor = self.torch.from_numpy(x)
        for make in self.variants:
            name, copy, call = make(x_tensor)
            # Weights in an order that depends on the batch are made afresh.
            key = (make.__name__, len(x) if make == self.onednn else 0)
            self.copies = {k: w for k, w in self.copies.items() if k[0] != key[0] or k == key}
            try:
                weights = self.copies.setdefault(key, [])
                while len(weights) < copies:
                    weights.append(copy(len(weights)))
                calls = [lambda w=w, f=call: f(w) for w in weights[:copies]]
                result = calls[0]()
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                if make == self.variants[0]:
                    raise
                import sys

                print(f"{name}: left out, {error}", file=sys.stderr)
                continue
            yield Variant(name, calls, 1, lambda c=calls[0]: c().numpy())


def cpu_flags():
    try:
        with open("/proc/cpuinfo") as info:
            return next(line for line in info if line.startswith("flags"))
    except (OSError, StopIteration):
        return ""


if __name__ == "__main__":
    protocol.main(Torch)
