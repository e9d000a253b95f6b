"""Stand-alone source: a network as one readable Python file that needs only torch and loads the exported weights."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nasplat.export.code import WIDTH, Atom, Code, Node, call, flat, is_name, laid_out, quoted
from nasplat.export.definition import Written
from nasplat.export.forward import forward_lines
from nasplat.export.sharing import default_of, written
from nasplat.export.tracing import Graph, traced
from nasplat.nn.onnx import SIDES

if TYPE_CHECKING:
    from torch import nn

    from nasplat.architecture import IO


def source(network: "nn.Module", io: "IO", heading: Sequence[str]) -> str:
    """A network as the text of a Python file with the same modules under the same names.

    The file has the classes of the network's modules, specialized for this network, and a function `load`. Unused
    modules without weights are left out.

    Args:
        network: In evaluation mode, with any modules whose forward does not depend on values.
        io: The input and output shapes of the network.
        heading: The paragraphs of the file's docstring.

    Raises:
        RunError: A module cannot be written as source. The message names the module and the reason.
    """
    upscales = io.scale is not None
    shape = (io.input_shape[0], *SIDES) if upscales else io.input_shape
    definitions = written(network, traced(network, shape, free_sides=upscales))
    body = [line for each in definitions for line in ("", "", *_definition(each))]
    lines = [*_docstring(heading, indent=0), "", *_imports(body), *body, *_load(definitions[-1])]
    return "\n".join(lines) + "\n"


def _imports(body: Sequence[str]) -> list[str]:
    """Only the imports that the file needs."""
    text = "\n".join(body)
    ordered = ["from collections import OrderedDict", ""] if "OrderedDict(" in text else []
    whole = ["import torch"] if "torch." in text else []
    names = ["Tensor"] * ("Tensor" in text) + ["nn"]
    function = ["from torch.nn import functional"] if "functional." in text else []
    return [*ordered, *whole, f"from torch import {', '.join(names)}", *function]


def _definition(each: Written) -> list[str]:
    definition = each.definition
    parameters = [_parameter(name, numbers) for name, numbers in definition.parameters.items()]
    if definition.is_function:
        (code,) = each.attributes.values()
        return [
            *_signature(definition.name, parameters, _class_of(each), indent=0),
            *_docstring([definition.doc], indent=4),
            *laid_out("return ", code, indent=4),
        ]
    lines = [f"class {definition.name}(nn.Module):"]
    lines += _docstring([definition.doc], indent=4) if definition.doc else []
    made = [f"        self.{name} = {name}" for name in each.fields]
    for name, code in each.attributes.items():
        made += _made(name, code)
    if made:
        lines += [
            *([""] if definition.doc else []),
            *_signature("__init__", ["self", *parameters], "None", indent=4),
            "        super().__init__()",
            *made,
        ]
    if each.graph is not None:
        lines += [*([""] if made or definition.doc else []), *_forward(each.graph)]
    return lines if len(lines) > 1 else [*lines, "    pass"]


def _made(name: str, code: Code) -> list[str]:
    """The line of an ``__init__`` that makes an attribute."""
    if flat(code).startswith("self.register_buffer("):
        return laid_out("", code, indent=8)
    if not is_name(name):
        kind = "parameter" if flat(code).startswith("nn.Parameter(") else "module"
        return laid_out("", call(f"self.register_{kind}", Atom(quoted(name)), code), indent=8)
    return laid_out(f"self.{name} = ", code, indent=8)


def _forward(graph: Graph) -> list[str]:
    inputs = [f"{name}: {'list[Tensor]' if name in graph.lists else 'Tensor'}" for name in graph.inputs]
    return [
        *_signature("forward", ["self", *inputs], _type(graph.result), indent=4),
        *forward_lines(graph.inputs, graph.steps, frozenset(graph.effects), graph.result),
    ]


def _type(result: Code) -> str:
    """The type of what a forward returns; all values are tensors."""
    match result:
        case Node(kind="tuple", parts=parts):
            return f"tuple[{', '.join(map(_type, parts))}]"
        case Node(kind="list", parts=(first, *_)):
            return f"list[{_type(first)}]"
        case Node(kind="dict", parts=(Node(parts=(_, first)), *_)):
            return f"dict[str, {_type(first)}]"
    return "Tensor"


def _load(network: Written) -> list[str]:
    name = network.definition.name
    return [
        "",
        "",
        f'def load(path: str = "weights.safetensors") -> {_class_of(network)}:',
        '    """The network with its weights, in evaluation mode.',
        "",
        "    The path of the weights begins at this file's folder.",
        '    """',
        "    from pathlib import Path",
        "",
        "    from safetensors.torch import load_file",
        "",
        f"    network = {name}()",
        "    network.load_state_dict(load_file(Path(__file__).parent / path))",
        "    return network.eval()",
    ]


def _class_of(each: Written) -> str:
    """The class of the modules that a definition makes."""
    if not each.definition.is_function:
        return each.definition.name
    (code,) = each.attributes.values()
    return flat(code).partition("(")[0]


def _signature(name: str, parameters: Sequence[str], result: str, *, indent: int) -> list[str]:
    """The signature of a function, divided into several lines if it is long."""
    margin = " " * indent
    line = f"{margin}def {name}({', '.join(parameters)}) -> {result}:"
    together = f"{margin}    {', '.join(parameters)}"
    if len(line) <= WIDTH:
        return [line]
    inside = [together] if len(together) <= WIDTH else [f"{margin}    {each}," for each in parameters]
    return [f"{margin}def {name}(", *inside, f"{margin}) -> {result}:"]


def _docstring(paragraphs: Sequence[str], *, indent: int) -> list[str]:
    """Paragraphs as a docstring with wrapped lines. Text that would end it early is escaped."""
    margin = " " * indent
    texts = [each.replace("\\", "\\\\").replace('"""', "'''").rstrip('"') for each in paragraphs if each.strip()]
    if len(texts) == 1 and len(texts[0]) + indent + 3 <= WIDTH:
        return [f'{margin}"""{texts[0]}"""']
    lines: list[str] = []
    for number, text in enumerate(texts):
        lines += [""] if number else []
        for line in text.splitlines():
            beginning = margin + '"""' * (not lines)
            lines += textwrap.wrap(
                line, WIDTH, initial_indent=beginning, subsequent_indent=margin, break_long_words=False,
                break_on_hyphens=False,
            )  # fmt: skip
    return [*lines, f'{margin}"""']


def _parameter(name: str, numbers: Sequence[int | float]) -> str:
    kind = "float" if any(isinstance(number, float) for number in numbers) else "int"
    default = default_of(name, numbers)
    return f"{name}: {kind}" + ("" if default is None else f" = {default}")
