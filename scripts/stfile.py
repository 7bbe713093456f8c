"""safetensors files with nothing but the standard library: read the header, build one, make a small model.

For the demo and the README check, which must run where no package can be installed.
"""

import array
import json
import struct


def read_header(data):
    """(header, where the tensor data begins) of a safetensors file given as bytes or as an open binary file."""
    if hasattr(data, "read"):
        data.seek(0)
        (length,) = struct.unpack("<Q", data.read(8))
        return json.loads(data.read(length)), 8 + length
    (length,) = struct.unpack("<Q", bytes(data[:8]))
    return json.loads(bytes(data[8 : 8 + length])), 8 + length


def build(tensors, metadata=None):
    """A safetensors file of [(name, dtype, shape, bytes)], laid out in that order."""
    header, offset = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(data for *_, data in tensors)])


def normal(rng, count, scale):
    """count float32 values, normally distributed, as bytes."""
    gauss = rng.gauss
    return array.array("f", [gauss(0.0, scale) for _ in range(count)]).tobytes()


def small_transformer(rng, hidden, layers, vocabulary):
    """A float32 model with the names and proportions of a small BERT, as a safetensors file."""
    shapes = [
        ("embeddings.word_embeddings.weight", (vocabulary, hidden)),
        ("embeddings.position_embeddings.weight", (128, hidden)),
        ("embeddings.LayerNorm.weight", (hidden,)),
        ("embeddings.LayerNorm.bias", (hidden,)),
    ]
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes += [(f"{at}{part}.weight", (hidden, hidden)), (f"{at}{part}.bias", (hidden,))]
        shapes += [
            (f"{at}intermediate.dense.weight", (4 * hidden, hidden)),
            (f"{at}intermediate.dense.bias", (4 * hidden,)),
            (f"{at}output.dense.weight", (hidden, 4 * hidden)),
            (f"{at}output.dense.bias", (hidden,)),
        ]
    tensors = []
    for name, shape in shapes:
        count = 1
        for size in shape:
            count *= size
        tensors.append((name, "F32", shape, normal(rng, count, 0.05)))
    return build(tensors, {"format": "pt"})


def perturb(model, rng, prefix, scale):
    """The model with a little noise on the float32 tensors whose names begin with prefix."""
    header, start = read_header(model)
    out = bytearray(model)
    for name, entry in header.items():
        if name.startswith(prefix) and entry["dtype"] == "F32":
            begin, end = (start + offset for offset in entry["data_offsets"])
            values = array.array("f", bytes(out[begin:end]))
            gauss = rng.gauss
            out[begin:end] = array.array("f", [value + gauss(0.0, scale) for value in values]).tobytes()
    return bytes(out)
