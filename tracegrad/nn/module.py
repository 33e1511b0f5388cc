"""``nn.Module``: what all layers have in common.

:class:`tracegrad.nn.module_tree.ModuleTree` holds parameters, buffers and children;
:mod:`tracegrad.nn.state_dict` saves and loads them, :mod:`tracegrad.nn.module_hooks` runs a module that has
hooks. Here is running a module, registering its hooks, and changing a whole tree. Start with
:meth:`Module.__call__`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from tracegrad.device import Device
from tracegrad.grad_mode import no_grad, state
from tracegrad.ir import events
from tracegrad.ir.types import DType
from tracegrad.nn import state_dict as saving
from tracegrad.nn.module_hooks import call_with_hooks, everywhere
from tracegrad.nn.module_tree import ModuleTree
from tracegrad.node import RemovableHandle, add_hook
from tracegrad.ops.arguments import resolve_dtype
from tracegrad.tensor import Tensor

M = TypeVar("M", bound="Module")
Hook = Callable[..., Any]


class _TracedTree(threading.local):
    """While a trace listens: the paths of the modules below the outermost one that is running."""

    paths: dict[int, str] | None = None


_traced = _TracedTree()


class Module(ModuleTree):
    """Base of all neural network modules, as ``torch.nn.Module``: subclass it and define ``forward``."""

    training: bool
    _is_full_backward_hook: bool | None
    call_super_init = False
    _version = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        if kwargs and not self.call_super_init:
            raise TypeError(
                f"{name}.__init__() got an unexpected keyword argument '{next(iter(kwargs))}'"
            )
        if args and not self.call_super_init:
            raise TypeError(
                f"{name}.__init__() takes 1 positional argument but {len(args) + 1} were given"
            )
        self.__dict__.update(
            training=True,
            _parameters={},
            _buffers={},
            _non_persistent_buffers_set=set(),
            _modules={},
            _forward_hooks={},
            _forward_hooks_with_kwargs=set(),
            _forward_hooks_always_called=set(),
            _forward_pre_hooks={},
            _forward_pre_hooks_with_kwargs=set(),
            _backward_hooks={},
            _backward_pre_hooks={},
            _is_full_backward_hook=None,
            _state_dict_hooks={},
            _state_dict_pre_hooks={},
            _load_state_dict_pre_hooks={},
            _load_state_dict_post_hooks={},
        )
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # Running.

    def forward(self, *input: Any) -> Any:
        """What the module computes; every subclass defines it."""
        raise NotImplementedError(
            f'Module [{type(self).__name__}] is missing the required "forward" function'
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if events.wants_modules:
            return self._call_labelled(args, kwargs)
        if state.trace is not None:
            return self._call_in_scope(args, kwargs)
        if self._has_hooks():
            return call_with_hooks(self, args, kwargs)
        return self.forward(*args, **kwargs)

    def _has_hooks(self) -> bool:
        """Whether hooks run when the module is called, or when gradients come back to it."""
        return bool(
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or everywhere
        )

    def _call_labelled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """While a profile wants modules: the call is an event around what it does."""
        label = f"nn.Module: {type(self).__name__}"
        with events.span(label, events.MODULE, Module=id(self)):
            if state.trace is not None:
                return self._call_in_scope(args, kwargs)
            return call_with_hooks(self, args, kwargs)

    def _call_in_scope(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Under a trace new nodes carry the module's path, counted from the outermost module."""
        builder = state.trace.builder
        outer_scope, outer_paths = builder.scope, _traced.paths
        if outer_paths is None:
            _traced.paths = {id(module): path for path, module in self.named_modules()}
        else:
            builder.scope = outer_paths.get(id(self), outer_scope)
        try:
            if self._has_hooks():
                return call_with_hooks(self, args, kwargs)
            return self.forward(*args, **kwargs)
        finally:
            builder.scope, _traced.paths = outer_scope, outer_paths

    def register_forward_pre_hook(
        self, hook: Hook, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call ``hook(module, args)`` before each `forward`; it may return other arguments.

        Args:
            prepend: run before the hooks that are there already.
            with_kwargs: the hook is ``hook(module, args, kwargs)`` and returns both or None.
        """
        handle = add_hook(self._forward_pre_hooks, hook)
        if with_kwargs:
            self._forward_pre_hooks_with_kwargs.add(handle._key)
        if prepend:
            _move_to_front(self._forward_pre_hooks, handle._key)
        return handle

    def register_forward_hook(
        self,
        hook: Hook,
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after each `forward`; it may return another output.

        Args:
            prepend: run before the hooks that are there already.
            with_kwargs: the hook is ``hook(module, args, kwargs, output)``.
            always_call: call it also when `forward` raises.
        """
        handle = add_hook(self._forward_hooks, hook)
        if with_kwargs:
            self._forward_hooks_with_kwargs.add(handle._key)
        if always_call:
            self._forward_hooks_always_called.add(handle._key)
        if prepend:
            _move_to_front(self._forward_hooks, handle._key)
        return handle

    def register_full_backward_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_input, grad_output)`` when gradients have passed the module backwards.

        Both are tuples, None where an argument or output is no tensor; it may return another grad_input. Where no
        argument requires grad, it is called when grad_output is there.

        Args:
            prepend: run before the hooks that are there already.

        Raises:
            RuntimeError: there are hooks of `register_backward_hook`.
        """
        return self._add_backward_hook(hook, full=True, prepend=prepend)

    def register_full_backward_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(module, grad_output)`` when gradients reach the module; it may return another grad_output.

        Args:
            prepend: run before the hooks that are there already.
        """
        handle = add_hook(self._backward_pre_hooks, hook)
        if prepend:
            _move_to_front(self._backward_pre_hooks, handle._key)
        return handle

    def register_backward_hook(self, hook: Hook) -> RemovableHandle:
        """Deprecated in favour of `register_full_backward_hook`: sees only the last operation of the module.

        Raises:
            RuntimeError: there are hooks of `register_full_backward_hook`.
        """
        return self._add_backward_hook(hook, full=False, prepend=False)

    def _add_backward_hook(self, hook: Hook, *, full: bool, prepend: bool) -> RemovableHandle:
        if self._is_full_backward_hook is (not full):
            raise RuntimeError(
                "Cannot use both regular backward hooks and full backward hooks on a single Module. Please use only "
                "one of them."
            )
        self._is_full_backward_hook = full
        handle = add_hook(self._backward_hooks, hook)
        if prepend:
            _move_to_front(self._backward_hooks, handle._key)
        return handle

    # Changing the whole tree.

    def apply(self: M, fn: Callable[[Module], None]) -> M:
        """Call `fn` with every module below, then with this one. Returns the module."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def train(self: M, mode: bool = True) -> M:
        """Set training mode (dropout drops, batch norm uses the batch). Returns the module."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: M) -> M:
        """``train(False)``."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Set `requires_grad` of all parameters. Returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        clear_grads(self.parameters(), set_to_none)

    def _apply(self: M, fn: Callable[[Tensor], Tensor]) -> M:
        """Replace the contents of all parameters, their gradients and all buffers."""
        for module in self.children():
            module._apply(fn)
        for parameter in self._parameters.values():
            if parameter is None:
                continue
            gradient = parameter.grad
            with no_grad():
                parameter.data = fn(parameter)
                if gradient is not None:
                    parameter.grad = fn(gradient).requires_grad_(gradient.requires_grad)
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = fn(buffer)
        return self

    def to(
        self: M, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False
    ) -> M:
        """Convert floating point parameters and buffers to a dtype (or to that of a tensor).

        A device argument may name the CPU only. Returns the module, changed in place.
        """
        for argument in args:
            if isinstance(argument, Tensor):
                dtype = argument.dtype
            elif isinstance(argument, DType) or argument is float:
                dtype = argument
            elif isinstance(argument, (str, Device)):
                device = argument
        if device is not None:
            Device(device)
        target = resolve_dtype(dtype)
        if target is None:
            return self
        if not target.is_floating:
            raise TypeError(
                "nn.Module.to only accepts floating point or complex dtypes, but got desired "
                f"dtype={target!r}"
            )
        return self._apply(lambda t: t.to(target) if t.is_floating_point() else t)

    def float(self: M) -> M:
        """Convert floating point parameters and buffers to float32."""
        return self._apply(lambda t: t.float() if t.is_floating_point() else t)

    def double(self: M) -> M:
        """Convert floating point parameters and buffers to float64."""
        return self._apply(lambda t: t.double() if t.is_floating_point() else t)

    def type(self: M, dst_type: Any) -> M:
        """Convert all parameters and buffers, whatever their dtype."""
        return self._apply(lambda t: t.to(dst_type))

    def cpu(self: M) -> M:
        """Itself: everything is on the CPU."""
        return self

    def cuda(self: M, device: Any = None) -> M:
        """There is no GPU. Raises RuntimeError."""
        return self._apply(lambda t: t.cuda(device))

    # Saving, loading, showing.

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """All parameters and persistent buffers by path, detached and sharing storage.

        Args:
            destination: a dictionary to fill.
            prefix: written before each path.
            keep_vars: give the parameters themselves.
        """
        return saving.save(self, destination, prefix, keep_vars)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> saving.IncompatibleKeys:
        """Copy values saved by `state_dict` into parameters and buffers.

        Args:
            strict: the keys must be exactly those of this module.
            assign: take over the tensors instead of copying.

        Returns:
            The keys that were missing and unexpected.

        Raises:
            RuntimeError: keys or shapes do not fit; all problems in one message.
        """
        return saving.load(self, state_dict, strict, assign)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        saving.save_own(self, destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saving.load_own(
            self,
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def register_state_dict_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(module, prefix, keep_vars)`` before this module is saved."""
        return add_hook(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, local_metadata)`` after this module was saved."""
        return add_hook(self._state_dict_hooks, hook)

    def register_load_state_dict_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(module, state_dict, prefix, ...)`` before this module is loaded."""
        return add_hook(self._load_state_dict_pre_hooks, hook)

    def register_load_state_dict_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(module, incompatible_keys)`` after this module was loaded."""
        return add_hook(self._load_state_dict_post_hooks, hook)

    def get_extra_state(self) -> Any:
        """Anything else to be saved; to be defined together with `set_extra_state`."""
        raise RuntimeError(
            "Reached a code path in Module.get_extra_state() that should never be called."
        )

    def set_extra_state(self, state: Any) -> None:
        """Take back what `get_extra_state` gave."""
        raise RuntimeError(
            "Reached a code path in Module.set_extra_state() that should never be called."
        )

    def extra_repr(self) -> str:
        """What stands in the parentheses of the representation; for subclasses to define."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {indent(repr(module))}" for name, module in self._modules.items()]
        if len(lines) == 1 and not children:
            return f"{self._get_name()}({lines[0]})"
        if not lines and not children:
            return f"{self._get_name()}()"
        body = "\n  ".join(lines + children)
        return f"{self._get_name()}(\n  {body}\n)"


def indent(text: str) -> str:
    """`text` with every line but the first indented by two columns."""
    return text.replace("\n", "\n  ")


def _move_to_front(hooks: dict[int, Hook], key: int) -> None:
    others = {k: h for k, h in hooks.items() if k != key}
    first = hooks[key]
    hooks.clear()
    hooks[key] = first
    hooks.update(others)


def clear_grads(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop gradients without reading them, or fill those that are there with zeros in place."""
    for parameter in parameters:
        if set_to_none:
            parameter.grad = None
            continue
        gradient = parameter.grad
        if gradient is not None:
            if gradient.requires_grad:
                gradient.detach_()
            gradient.zero_()
