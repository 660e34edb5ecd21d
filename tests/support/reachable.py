"""What can be reached in memory from an object."""

import gc
import types


def holds(root: object, text: str) -> bool:
    """Whether text, or bytes, with that in it can be reached from an object, but through no module, class or function."""
    seen, left = set[int](), [root]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, types.ModuleType | types.FunctionType | type):
            continue
        seen.add(id(one))
        if (isinstance(one, str) and text in one) or (
            isinstance(one, bytes) and text.encode() in one
        ):
            return True
        left += gc.get_referents(one)
    return False
