"""Hooks of modules: those of all modules, and how a module is run with its own and these.

``everywhere`` and ``registrations`` are the tables of the hooks that count for all modules, under torch's names in
:mod:`tracegrad.nn.modules.module`. While one of them is not empty, compiled functions run eagerly. Start with
:func:`call_with_hooks`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from tracegrad.grad_mode import state
from tracegrad.nn.backward_hooks import ModuleBoundary, register_legacy
from tracegrad.node import RemovableHandle, add_hook

Hook = Callable[..., Any]


class CallHook(NamedTuple):
    """A hook on the calls of modules, or on the gradients that pass them.

    Attributes:
        kind: ``"forward_pre"``, ``"forward"``, ``"backward_pre"`` or ``"backward"``.
        hook: the user's function.
        with_kwargs: whether it gets keyword arguments.
        always_call: whether it runs when ``forward`` failed, too.
    """

    kind: str
    hook: Hook
    with_kwargs: bool = False
    always_call: bool = False


everywhere: dict[int, Any] = {}
"""The :class:`CallHook` objects that count for all modules, in order. Empty in nearly all programs."""

registrations: dict[int, Any] = {}
"""``(kind, hook)`` for hooks that are called when a buffer, a module or a parameter is registered."""

_full: list[bool | None] = [None]
"""Whether the backward hooks of all modules are full ones; None before there was any. It stays, as in torch."""


def of_all_modules() -> bool:
    """Whether there are hooks of all modules."""
    return bool(everywhere or registrations)


def _add(table: dict[int, Any], entry: Any) -> RemovableHandle:
    if state.trace is not None:
        state.trace.give_up("it registers a hook of all modules")
    return add_hook(table, entry)


def _of_kind(kind: str) -> list[tuple[int, CallHook]]:
    return [(key, entry) for key, entry in [*everywhere.items()] if entry.kind == kind]


# Registering.


def register_module_forward_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, args)`` before each ``forward`` of any module, before the module's own hooks.

    It may return other arguments.
    """
    return _add(everywhere, CallHook("forward_pre", hook))


def register_module_forward_hook(
    hook: Hook, *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call ``hook(module, args, output)`` after each ``forward`` of any module, before the module's own hooks.

    It may return another output.

    Args:
        with_kwargs: the hook is ``hook(module, args, kwargs, output)``.
        always_call: call it also when ``forward`` raises.
    """
    return _add(everywhere, CallHook("forward", hook, with_kwargs, always_call))


def register_module_full_backward_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_output)`` when gradients reach any module, before the module's own hooks.

    It may return another grad_output.
    """
    return _add(everywhere, CallHook("backward_pre", hook))


def register_module_full_backward_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, grad_input, grad_output)`` when gradients have passed any module backwards.

    As `Module.register_full_backward_hook`; called before the module's own hooks.

    Raises:
        RuntimeError: there were hooks of `register_module_backward_hook`.
    """
    return _add_backward(hook, full=True)


def register_module_backward_hook(hook: Hook) -> RemovableHandle:
    """Deprecated in favour of `register_module_full_backward_hook`: sees only the last operation of a module.

    Raises:
        RuntimeError: there were hooks of `register_module_full_backward_hook`.
    """
    return _add_backward(hook, full=False)


def _add_backward(hook: Hook, *, full: bool) -> RemovableHandle:
    if _full[0] is (not full):
        raise RuntimeError(
            "Cannot use both regular backward hooks and full backward hooks as a global Module hook. Please use only "
            "one of them."
        )
    _full[0] = full
    return _add(everywhere, CallHook("backward", hook))


def register_module_buffer_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, buffer)`` whenever a buffer is registered; it may return another buffer."""
    return _add(registrations, ("buffer", hook))


def register_module_module_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, submodule)`` whenever a child is registered; it may return another module."""
    return _add(registrations, ("module", hook))


def register_module_parameter_registration_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(module, name, param)`` whenever a parameter is registered; it may return another one."""
    return _add(registrations, ("parameter", hook))


def registered(kind: str, module: Any, name: str, value: Any) -> Any:
    """What is to be registered with a module, as the hooks of this kind want it."""
    for wanted, hook in [*registrations.values()]:
        if wanted == kind:
            replaced = hook(module, name, value)
            if replaced is not None:
                value = replaced
    return value


# Running.


def call_with_hooks(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``module.forward(*args, **kwargs)`` with all hooks around it, those of all modules first."""
    return _Call(module, args, kwargs).run()


class _Call:
    """One call of a module.

    Attributes:
        module: the module.
        args, kwargs: of ``forward``, as hooks have replaced them.
        result: what it returned, likewise.
        called: the keys of the forward hooks that have begun.
    """

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module = module
        self.args = args
        self.kwargs = kwargs
        self.result: Any = None
        self.called: set[int] = set()

    def run(self) -> Any:
        try:
            self._run()
        except Exception:
            self._run_always_called()
            raise
        return self.result

    def _run(self) -> None:
        module = self.module
        pre_hooks = [entry.hook for _, entry in _of_kind("backward_pre")]
        pre_hooks += module._backward_pre_hooks.values()
        full, legacy = self._backward_hooks()
        self._run_forward_pre_hooks()
        boundary = None
        if full or pre_hooks:
            boundary = ModuleBoundary(module, full, pre_hooks)
            self.args = boundary.enter(self.args)
        self.result = module.forward(*self.args, **self.kwargs)
        for key, entry in self._forward_hooks():
            self.called.add(key)
            self._run_forward_hook(entry)
        if boundary is not None:
            self.result = boundary.leave(self.result)
        if legacy:
            register_legacy(module, legacy, self.args, self.result)

    def _backward_hooks(self) -> tuple[list[Hook], list[Hook]]:
        """The full backward hooks, and the others."""
        module = self.module
        found: dict[bool, list[Hook]] = {True: [], False: []}
        if _full[0] is not None:
            found[_full[0]] += [entry.hook for _, entry in _of_kind("backward")]
        if module._is_full_backward_hook is not None:
            found[module._is_full_backward_hook] += module._backward_hooks.values()
        return found[True], found[False]

    def _run_forward_pre_hooks(self) -> None:
        module = self.module
        hooks = [(entry.hook, False) for _, entry in _of_kind("forward_pre")]
        own = module._forward_pre_hooks_with_kwargs
        hooks += [(hook, key in own) for key, hook in module._forward_pre_hooks.items()]
        for hook, with_kwargs in hooks:
            if with_kwargs:
                replaced = hook(module, self.args, self.kwargs)
                if replaced is None:
                    continue
                if not (isinstance(replaced, tuple) and len(replaced) == 2):
                    raise RuntimeError(
                        "forward pre-hook must return None or a tuple of (new_args, new_kwargs), "
                        f"but got {replaced}."
                    )
                self.args, self.kwargs = replaced
            else:
                replaced = hook(module, self.args)
                if replaced is not None:
                    self.args = replaced if isinstance(replaced, tuple) else (replaced,)

    def _forward_hooks(self) -> list[tuple[int, CallHook]]:
        module = self.module
        with_kwargs = module._forward_hooks_with_kwargs
        always = module._forward_hooks_always_called
        own = [
            (key, CallHook("forward", hook, key in with_kwargs, key in always))
            for key, hook in module._forward_hooks.items()
        ]
        return [*_of_kind("forward"), *own]

    def _run_forward_hook(self, entry: CallHook) -> None:
        if entry.with_kwargs:
            replaced = entry.hook(self.module, self.args, self.kwargs, self.result)
        else:
            replaced = entry.hook(self.module, self.args, self.result)
        if replaced is not None:
            self.result = replaced

    def _run_always_called(self) -> None:
        """Something failed: run the hooks that want to be called all the same, as far as they were not."""
        for key, entry in self._forward_hooks():
            if not entry.always_call or key in self.called:
                continue
            try:
                self._run_forward_hook(entry)
            except Exception as error:
                which = "global module" if key in everywhere else "module"
                warnings.warn(
                    f"{which} forward hook with ``always_call=True`` raised an exception that was silenced as "
                    f"another error was raised in forward: {error}",
                    stacklevel=5,
                )
