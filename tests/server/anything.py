"""Any message of a protobuf type, as hypothesis strategies made from its descriptor: what a hostile or broken client may send.

Numbers favour the edges of their type, enums take numbers that they do not have, texts and bytes are of all kinds, parts may be
missing or many, and unknown fields ride along.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

PARTS_MAX: Final = 3
DEPTH_MAX: Final = 6
UNKNOWN_FIELD: Final = b"\xfa\x7f\x06unseen"
"""Field 2,047, which no message of ours has, with the bytes `unseen`."""


def _numbers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    edges = [low, high, high - 1, 1 << bits // 2] + ([-1] if signed else [])
    return st.integers(0, 5) | st.sampled_from(edges) | st.integers(low, high)


_TEXTS: Final = ("c" * 32, f"{1:032x}", "n1", "127.0.0.1:7001", "ü" * 300)
_SCALARS: Final[dict[int, st.SearchStrategy[Any]]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_UINT32: _numbers(32, signed=False),
    FieldDescriptor.TYPE_UINT64: _numbers(64, signed=False),
    FieldDescriptor.TYPE_INT32: _numbers(32, signed=True),
    FieldDescriptor.TYPE_INT64: _numbers(64, signed=True),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 4) | st.sampled_from([-(1 << 31), -1, 77, (1 << 31) - 1]),
    FieldDescriptor.TYPE_STRING: st.text(max_size=12) | st.sampled_from(_TEXTS),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=12) | st.sampled_from([b"k", b"k" * 480, b"k" * 481, b"\0" * 32]),
}


@cache
def anything(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of this type. Deeper than DEPTH_MAX they are empty."""
    kind = GetMessageClass(descriptor)
    if depth >= DEPTH_MAX:
        return st.builds(kind)
    fields = {field.name: _field(field, depth) for field in descriptor.fields}

    @st.composite
    def build(draw: st.DrawFn) -> Message:
        message = kind(**{name: draw(values) for name, values in fields.items() if draw(st.booleans())})
        if draw(st.integers(0, 9)) == 0:
            message.MergeFromString(UNKNOWN_FIELD)
        return message

    return build()


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    one = _SCALARS[field.type] if field.message_type is None else anything(field.message_type, depth + 1)
    return st.lists(one, max_size=PARTS_MAX) if field.is_repeated else one
