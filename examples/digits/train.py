#!/usr/bin/env python3
"""Train a small digit classifier and save it as safetensors.

The network is a multilayer perceptron, 64 -> 384 -> 256 -> 10, with ReLU after
the first two layers, in float32.  It is trained with plain numpy (AdamW,
mini-batches, cosine learning rate, small random shifts of the images) on the
8x8 handwritten digits that scikit-learn ships.

Two files are written:

``digits.safetensors``
    The weights: ``fc1.weight`` [384, 64], ``fc1.bias`` [384],
    ``fc2.weight`` [256, 384], ``fc2.bias`` [256], ``fc3.weight`` [10, 256] and
    ``fc3.bias`` [10].  Weights are [out, in], row-major, as in PyTorch, so a
    layer computes ``x @ weight.T + bias``.

``digits_test.safetensors``
    The held-out test set: ``images`` (u8, [N, 64], pixel values 0 to 16) and
    ``labels`` (u8, [N]).

The input of the network is ``images / 16`` as float32; the predicted digit is
the index of the largest output.

The default settings were chosen by cross-validation within the training set,
and the last weights are kept, so the test set plays no part in training.
Running the script twice on one machine with the same package versions gives
identical bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from pathlib import Path

# The order of a sum, and so its last bits, can depend on the number of threads.
# These have to be set before numpy is imported.
for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
from safetensors.numpy import load, save  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402

Array = np.ndarray
Tensors = dict[str, Array]

LAYER_SIZES = (64, 384, 256, 10)
SIDE = 8
PIXEL_MAX = 16
TEST_FRACTION = 0.3
SPLIT_SEED = 0

DATA_SOURCE = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, "
    "UCI Machine Learning Repository, https://doi.org/10.24432/C50P49, "
    "as shipped with scikit-learn (sklearn.datasets.load_digits)"
)
DATA_LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"


def load_split() -> tuple[Array, Array, Array, Array]:
    """Return train images, train labels, test images, test labels, all u8."""
    digits = load_digits()
    images = digits.data.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    if not np.array_equal(images, digits.data) or images.max() > PIXEL_MAX:
        raise ValueError("pixel values are not integers from 0 to 16")
    train_x, test_x, train_y, test_y = train_test_split(
        images,
        labels,
        test_size=TEST_FRACTION,
        random_state=SPLIT_SEED,
        stratify=labels,
    )
    return train_x, train_y, test_x, test_y


def to_input(images: Array) -> Array:
    """Turn u8 pixels from 0 to 16 into the float32 input of the network."""
    return images.astype(np.float32) / np.float32(PIXEL_MAX)


def init_parameters(rng: np.random.Generator) -> Tensors:
    """He initialisation of the weights, zero biases."""
    parameters: Tensors = {}
    for layer, (n_in, n_out) in enumerate(zip(LAYER_SIZES, LAYER_SIZES[1:]), 1):
        weight = rng.standard_normal((n_out, n_in), dtype=np.float32)
        parameters[f"fc{layer}.weight"] = weight * np.float32((2.0 / n_in) ** 0.5)
        parameters[f"fc{layer}.bias"] = np.zeros(n_out, dtype=np.float32)
    return parameters


def forward(parameters: Tensors, x: Array) -> list[Array]:
    """Return the input followed by the output of every layer; the last is logits."""
    last = len(LAYER_SIZES) - 1
    outputs = [x]
    for layer in range(1, last + 1):
        z = outputs[-1] @ parameters[f"fc{layer}.weight"].T
        z += parameters[f"fc{layer}.bias"]
        outputs.append(np.maximum(z, 0) if layer < last else z)
    return outputs


def gradients(parameters: Tensors, x: Array, labels: Array) -> tuple[float, Tensors]:
    """Return the mean cross-entropy of a batch and its gradient."""
    outputs = forward(parameters, x)
    logits = outputs[-1]
    rows = np.arange(len(labels))

    shifted = logits - logits.max(axis=1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, labels]))

    delta = exp / total
    delta[rows, labels] -= 1
    delta /= np.float32(len(labels))

    grads: Tensors = {}
    for layer in range(len(LAYER_SIZES) - 1, 0, -1):
        grads[f"fc{layer}.weight"] = delta.T @ outputs[layer - 1]
        grads[f"fc{layer}.bias"] = delta.sum(axis=0)
        if layer > 1:
            delta = (delta @ parameters[f"fc{layer}.weight"]) * (outputs[layer - 1] > 0)
    return loss, grads


class AdamW:
    """Adam with decoupled weight decay, applied to the weights but not the biases."""

    def __init__(self, parameters: Tensors, weight_decay: float) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.beta1, self.beta2, self.epsilon = 0.9, 0.999, 1e-8
        self.mean = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.square = {name: np.zeros_like(p) for name, p in parameters.items()}
        self.steps = 0

    def step(self, grads: Tensors, learning_rate: float) -> None:
        """Change the parameters in place."""
        self.steps += 1
        correction1 = 1.0 - self.beta1**self.steps
        correction2 = 1.0 - self.beta2**self.steps
        for name, parameter in self.parameters.items():
            grad, mean, square = grads[name], self.mean[name], self.square[name]
            mean += (1.0 - self.beta1) * (grad - mean)
            square += (1.0 - self.beta2) * (grad * grad - square)
            if name.endswith(".weight"):
                parameter *= 1.0 - learning_rate * self.weight_decay
            denominator = np.sqrt(square / correction2) + self.epsilon
            parameter -= (learning_rate / correction1) * mean / denominator


def shift_randomly(images: Array, probability: float, rng: np.random.Generator) -> Array:
    """Move some images by at most one pixel each way, filling with zeros."""
    count = len(images)
    padded = np.pad(images.reshape(count, SIDE, SIDE), ((0, 0), (1, 1), (1, 1)))
    offset = rng.integers(0, 3, size=(count, 2))
    offset[rng.random(count) >= probability] = 1
    row = offset[:, 0, None, None] + np.arange(SIDE)[None, :, None]
    column = offset[:, 1, None, None] + np.arange(SIDE)[None, None, :]
    return padded[np.arange(count)[:, None, None], row, column].reshape(count, -1)


def accuracy(parameters: Tensors, images: Array, labels: Array) -> float:
    """Return the fraction of images whose digit is predicted correctly."""
    logits = forward(parameters, to_input(images))[-1]
    return float(np.mean(logits.argmax(axis=1) == labels))


def train(
    images: Array,
    labels: Array,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    shift_probability: float,
    seed: int,
    verbose: bool = False,
) -> Tensors:
    """Train a new network and return its tensors."""
    rng = np.random.default_rng(seed)
    parameters = init_parameters(rng)
    optimiser = AdamW(parameters, weight_decay)
    steps = epochs * -(-len(labels) // batch_size)

    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(labels))
        loss_sum = 0.0
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            x = to_input(shift_randomly(images[batch], shift_probability, rng))
            loss, grads = gradients(parameters, x, labels[batch])
            # Cosine decay from learning_rate to zero.
            factor = 0.5 * (1.0 + float(np.cos(np.pi * optimiser.steps / steps)))
            optimiser.step(grads, learning_rate * factor)
            loss_sum += loss * len(batch)
        if verbose and (epoch % 10 == 0 or epoch == epochs):
            print(f"epoch {epoch:4d}  training loss {loss_sum / len(order):.4f}")
    return parameters


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Save tensors with the metadata in a fixed order.

    The safetensors package does not promise an order for the metadata entries,
    so the JSON header is written again with them sorted.
    """
    data = save(tensors, metadata=metadata)
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))}
    ordered |= sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    text = json.dumps(ordered, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    data = struct.pack("<Q", len(text)) + text + data[8 + length :]

    loaded = load(data)
    if loaded.keys() != tensors.keys():
        raise RuntimeError(f"{path.name}: tensor names changed on the way")
    for name, tensor in tensors.items():
        if loaded[name].dtype != tensor.dtype or not np.array_equal(loaded[name], tensor):
            raise RuntimeError(f"{path.name}: {name} changed on the way")
    path.write_bytes(data)


def positive_int(text: str) -> int:
    """Parse a command-line value that must be at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Train a 64-384-256-10 digit classifier and write digits.safetensors "
        "(weights) and digits_test.safetensors (test set).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out-dir",
        type=Path,
        default=Path(__file__).resolve().parent,
        help="folder to write to",
    )
    parser.add_argument(
        "--epochs", type=positive_int, default=100, help="passes over the training set"
    )
    parser.add_argument("--batch-size", type=positive_int, default=64, help="images per step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="decoupled weight decay")
    parser.add_argument(
        "--shift-probability",
        type=float,
        default=0.25,
        help="chance that an image is moved by up to one pixel",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the weights, batches and shifts"
    )
    parser.add_argument("--quiet", action="store_true", help="print the results only")
    return parser.parse_args()


def main() -> None:
    """Train, report and save."""
    args = parse_arguments()
    train_x, train_y, test_x, test_y = load_split()
    parameters = train(
        train_x,
        train_y,
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        shift_probability=args.shift_probability,
        seed=args.seed,
        verbose=not args.quiet,
    )

    train_accuracy = accuracy(parameters, train_x, train_y)
    test_accuracy = accuracy(parameters, test_x, test_y)
    train_right = round(train_accuracy * len(train_y))
    test_right = round(test_accuracy * len(test_y))
    print(f"train accuracy {train_accuracy:.2%} ({train_right} of {len(train_y)})")
    print(f"test accuracy  {test_accuracy:.2%} ({test_right} of {len(test_y)})")

    source = {"data_source": DATA_SOURCE, "data_licence": DATA_LICENCE}
    weights_metadata = source | {
        "description": "Handwritten digit classifier: MLP 64-384-256-10, ReLU, float32, "
        "weights [out, in] row-major; input is images/16 as float32",
        "train_accuracy": f"{train_accuracy:.4f} ({train_right} of {len(train_y)})",
        "test_accuracy": f"{test_accuracy:.4f} ({test_right} of {len(test_y)})",
    }
    test_metadata = source | {
        "description": "Test set of the handwritten digit classifier: images u8 [N, 64], "
        "pixel values 0 to 16, rows of 8 from the top; labels u8 [N], 0 to 9; "
        "a subset of the data source, values unchanged",
        "split": f"stratified, {TEST_FRACTION:.0%} of {len(train_y) + len(test_y)} images, "
        f"seed {SPLIT_SEED}",
    }
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for name, tensors, metadata in (
        ("digits.safetensors", parameters, weights_metadata),
        ("digits_test.safetensors", {"images": test_x, "labels": test_y}, test_metadata),
    ):
        path = args.out_dir / name
        write_safetensors(path, tensors, metadata)
        print(f"wrote {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
