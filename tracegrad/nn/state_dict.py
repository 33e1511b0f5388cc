"""Saving a module's parameters and buffers to a dictionary, and loading them back, with torch's messages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tracegrad.grad_mode import no_grad
from tracegrad.nn.parameter import Parameter
from tracegrad.tensor import Tensor

if TYPE_CHECKING:
    from tracegrad.nn.module import Module

EXTRA_STATE = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """What did not fit when a state was loaded."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self[0]!r}, unexpected_keys={self[1]!r})"


def save(module: Module, destination: Any, prefix: str, keep_vars: bool) -> Any:
    """Fill `destination` from a module and all below it; see `Module.state_dict`."""
    if destination is None:
        destination = OrderedDict()
        # The versions of the modules travel with the dictionary: {path: {"version": number}}.
        destination._metadata = OrderedDict()
    metadata = {"version": module._version}
    if hasattr(destination, "_metadata"):
        destination._metadata[prefix[:-1]] = metadata
    for hook in list(module._state_dict_pre_hooks.values()):
        hook(module, prefix, keep_vars)
    module._save_to_state_dict(destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(
                destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars
            )
    for hook in list(module._state_dict_hooks.values()):
        if hook(module, destination, prefix, metadata) is not None:
            raise RuntimeError("state_dict post-hook must return None")
    return destination


def save_own(module: Module, destination: Any, prefix: str, keep_vars: bool) -> None:
    """Fill `destination` from one module alone."""
    for name, tensor in _persistent(module).items():
        destination[prefix + name] = tensor if keep_vars else tensor.detach()
    if _overrides(module, "get_extra_state"):
        destination[prefix + EXTRA_STATE] = module.get_extra_state()


def _persistent(module: Module) -> dict[str, Tensor]:
    own = dict(module._parameters)
    for name, buffer in module._buffers.items():
        if name not in module._non_persistent_buffers_set:
            own[name] = buffer
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def _overrides(module: Module, name: str) -> bool:
    """Whether the class defines a method that `Module` itself only reserves."""
    owner = next(cls for cls in type(module).__mro__ if name in cls.__dict__)
    return owner.__module__ != "tracegrad.nn.module"


def load(module: Module, state_dict: Any, strict: bool, assign: bool) -> IncompatibleKeys:
    """Load a module and all below it; see `Module.load_state_dict`."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    metadata = getattr(state_dict, "_metadata", None) or {}
    keys = IncompatibleKeys([], [])
    errors: list[str] = []
    # A copy, which hooks and subclasses may change.
    _load_tree(module, OrderedDict(state_dict), "", metadata, assign, keys, errors)
    if strict:
        for kind, names in (("Unexpected", keys.unexpected_keys), ("Missing", keys.missing_keys)):
            if names:
                quoted = ", ".join(f'"{name}"' for name in names)
                errors.insert(0, f"{kind} key(s) in state_dict: {quoted}. ")
    if errors:
        raise RuntimeError(
            f"Error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(errors)
        )
    return keys


def _load_tree(
    module: Module,
    values: Any,
    prefix: str,
    metadata: Mapping[str, Any],
    assign: bool,
    keys: IncompatibleKeys,
    errors: list[str],
) -> None:
    own_metadata = dict(metadata.get(prefix[:-1], {}))
    if assign:
        own_metadata["assign_to_params_buffers"] = True
    module._load_from_state_dict(
        values, prefix, own_metadata, True, keys.missing_keys, keys.unexpected_keys, errors
    )
    for name, child in module._modules.items():
        if child is not None:
            path = f"{prefix}{name}."
            below = OrderedDict((k, v) for k, v in values.items() if k.startswith(path))
            _load_tree(child, below, path, metadata, assign, keys, errors)
    for hook in list(module._load_state_dict_post_hooks.values()):
        if hook(module, keys) is not None:
            raise AssertionError(
                "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return "
                "new values, if incompatible_keys need to be modified, it should be done inplace."
            )


def load_own(
    module: Module,
    values: Any,
    prefix: str,
    metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """Load one module alone; problems are appended to the lists."""
    for hook in list(module._load_state_dict_pre_hooks.values()):
        hook(module, values, prefix, metadata, strict, missing, unexpected, errors)
    own = _persistent(module)
    assign = metadata.get("assign_to_params_buffers", False)
    for name, tensor in own.items():
        key = prefix + name
        if key in values:
            _load_tensor(module, name, tensor, key, values[key], assign, errors)
        elif strict:
            missing.append(key)
    extra = prefix + EXTRA_STATE
    if _overrides(module, "set_extra_state"):
        if extra in values:
            module.set_extra_state(values[extra])
        elif strict:
            missing.append(extra)
    elif strict and extra in values:
        unexpected.append(extra)
    if strict:
        for key in values:
            if key.startswith(prefix) and key != extra:
                name, dot, _ = key[len(prefix) :].partition(".")
                if name not in (module._modules if dot else own):
                    unexpected.append(key)


def _load_tensor(
    module: Module, name: str, tensor: Tensor, key: str, value: Any, assign: bool, errors: list[str]
) -> None:
    """Copy one saved value into a parameter or buffer, or put it in its place."""
    if not isinstance(value, Tensor):
        errors.append(
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object '
            f"from checkpoint but received {type(value)}"
        )
        return
    if tensor.dim() == 0 and tuple(value.shape) == (1,):
        value = value[0]
    if value.shape != tensor.shape:
        errors.append(
            f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, the "
            f"shape in current model is {tensor.shape}."
        )
        return
    try:
        with no_grad():
            if not assign:
                tensor.copy_(value)
            elif isinstance(tensor, Parameter):
                taken = (
                    value
                    if isinstance(value, Parameter)
                    else Parameter(value, tensor.requires_grad)
                )
                setattr(module, name, taken.requires_grad_(tensor.requires_grad))
            else:
                setattr(module, name, value)
    except Exception as error:
        errors.append(
            f'While copying the parameter named "{key}", whose dimensions in the model are '
            f"{tensor.size()} and whose dimensions in the checkpoint are {value.size()}, an exception "
            f"occurred : {error.args}."
        )
