"""The messages for a function that cannot be differentiated: one set of texts, in the words of the caller's arguments.

Each text names the argument, what is wrong with it, and what to pass instead; the names of the arguments differ between
traces and losses, and so do the cures. That difference is a :class:`Words`.
"""

from __future__ import annotations

from typing import NamedTuple

_HINTS = {  # what stands in torch's texts: what helps
    "use_reentrant": "pass use_reentrant=False to torch.utils.checkpoint",
    "saved tensor": "leave activation checkpointing (and save_on_cpu) off",
    "setup_context": "pass use_reentrant=False to torch.utils.checkpoint, where it is used",
    "scaled_dot_product": "choose torch.nn.attention.sdpa_kernel(SDPBackend.MATH) around the call",
    "requires_grad_()": "use fastscore.energy_score for the gradient of an energy",
    "does not require grad": "use fastscore.energy_score for the gradient of an energy",
    "mutate a captured Tensor": "call .eval() on a network that changes its buffers as it runs",
}


def hint(error: Exception) -> str:
    """What else may help, by torch's text."""
    found = [advice for words, advice in _HINTS.items() if words in str(error)]
    return f", or {found[0]}" if found else ""


class Words(NamedTuple):
    """What a caller's arguments are called.

    Attributes:
        name: the argument that is the function.
        single: what asks for one direction at a time, without ``vmap``.
        reverse: what asks for something other than forward mode.
        differences: what asks for finite differences, or for none of the derivatives at all.
        chooses: whether the caller may pass ``mode`` and ``create_graph``.
    """

    name: str = "f"
    single: str = "chunk_size=1"
    reverse: str = "mode='vjp' or mode='fd'"
    differences: str = "mode='fd'"
    chooses: bool = True

    def changed_x(self) -> str:
        return f"{self.name} must not change x in place: give it x.clone() to work on"

    def loses_tangent(self, error: Exception) -> str:
        return (
            f"{self.name} has an operation without a forward-mode rule, {error}, which would lose "
            f"its part of the derivative in mode='jvp': pass {self.reverse}"
        )

    def wrong_again(self, error: Exception) -> str:
        return f"{self.name} has an operation, {error}: pass {self.reverse}, or record none"

    def not_under_vmap(self, error: Exception) -> str:
        return f"{self.name} has an operation that does not work under vmap: pass {self.single}. Torch said: {error}"

    def no_forward_rule(self, error: Exception) -> str:
        return (
            f"{self.name} has an operation without a forward-mode rule, which mode='jvp' needs: pass "
            f"{self.reverse}{hint(error)}. Torch said: {error}"
        )

    def no_reverse(self, error: Exception) -> str:
        return (
            f"{self.name} cannot be differentiated in reverse mode: pass "
            f"{self.differences}{hint(error)}. Torch said: {error}"
        )

    def needs_gradients(self, error: Exception) -> str:
        return (
            f"{self.name} takes a gradient itself, and none is recorded where it is called: "
            f"use fastscore.energy_score for the gradient of an energy{', or pass create_graph=True' if self.chooses else ''}. "
            f"Torch said: {error}"
        )

    def cut_off(self, mode: str) -> str:
        cut, other = (
            ("detach, .data", "mode='vjp'")
            if mode == "jvp"
            else (
                "detach, .data, no_grad, autograd.grad without create_graph=True",
                "mode='jvp', which looks through no_grad,",
            )
        )
        return (
            f"{self.name} must depend on x in a way that autograd records in mode={mode!r}: its values change with x, "
            f"but the derivative is cut off. Take away what cuts it ({cut}); for the gradient of an energy, use "
            f"fastscore.energy_score; or pass {f'{other} or ' if self.chooses else ''}{self.differences}"
        )


OF_TRACE = Words()
OF_LOSS = Words(
    "score_fn", "n_particles=1 or mode='vjp'", "mode='vjp'", "fastscore.losses.fd_ssm in place of this loss"
)
OF_LIKELIHOOD = Words(
    "score_fn",
    "method='exact'",
    "divergence=",
    "divergence=, a function that gives score and trace itself",
    chooses=False,
)
OF_ISM = OF_LOSS._replace(single="chunk_size=1")
