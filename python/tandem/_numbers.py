"""Numbers as the core takes them, of whatever holds one: Python's, NumPy's, a tensor of one element."""


def whole_number(name, x, least=-(2**63), most=2**63 - 1):
    """int(x), of what is one. ValueError: of a fraction, of something else, out of range."""
    try:
        number = int(x)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != x:
        raise ValueError(f"{name}: {x!r} where a whole number belongs")
    if not least <= number <= most:
        raise ValueError(f"{name}: {number}; expected {least} to {most}")
    return number


def real_number(name, x):
    """float(x). TypeError: of something else. ValueError: of a tensor that requires a gradient, and would get none."""
    if isinstance(x, float):
        return x
    if getattr(x, "requires_grad", False):
        raise ValueError(f"{name}: requires a gradient, and none reaches it; give {name}.item()")
    try:
        if isinstance(x, str):
            raise TypeError
        return float(x)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: {x!r} where a number belongs") from None
