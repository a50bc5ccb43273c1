"""Finds the containers in a program that can grow and live longer than one call.

That is each attribute of a class, and each name of a module, that holds a dict, a list or the like,
and each cache of a function. Not found are: a local name of a function that runs for long, a chain
of objects, a container of a library. A container that cannot grow without bound is left out:

- `Recent(n)`, `deque(maxlen=n)`, `asyncio.Queue(n)`, `lru_cache(maxsize=n)`;
- what is made with entries in it, or named in capitals, and never changed by its module;
- a field of a frozen dataclass or a NamedTuple: a value lives in what holds it, and that is found.
"""

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

GROWING = {
    *("dict", "list", "set", "bytearray", "array", "deque", "OrderedDict", "defaultdict"),
    *("MutableMapping", "MutableSequence", "MutableSet", "ChainMap", "BytesIO", "StringIO"),
    *("WeakSet", "WeakKeyDictionary", "WeakValueDictionary"),
    *("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue"),
}
_DISPLAYS = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
_FIXED = {f"{kind} with entries" for kind in ("dict", "list", "set")}
_CHANGES = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem"),
    *("remove", "setdefault", "update"),
}


class Container(NamedTuple):
    """name: `Class.attribute`, or `module.name`. kind: as the source has it."""

    name: str
    kind: str
    line: int


def aliases(trees: Iterable[ast.Module]) -> set[str]:
    """The names of types that are containers, as `Samples: TypeAlias = dict[...]`."""
    return {
        target.id
        for tree in trees
        for statement in tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign)
        and isinstance(statement.value, ast.Subscript)
        and isinstance(target := _target(statement), ast.Name)
        and _type(statement.value, set())
    }


def _target(statement: ast.Assign | ast.AnnAssign) -> ast.expr:
    return statement.targets[0] if isinstance(statement, ast.Assign) else statement.target


def containers(module: str, tree: ast.Module, names: set[str]) -> Iterator[Container]:
    """The containers of one module. names: of types that are containers, besides GROWING."""
    growing = names | _collections_counter(tree)
    changed = set(_changed(tree))
    for found in _all_of(module, tree, growing, changed):
        if found.kind not in _FIXED or found.name.rpartition(".")[2] in changed:
            yield found


def _all_of(
    module: str, tree: ast.Module, growing: set[str], changed: set[str]
) -> Iterator[Container]:
    for statement in tree.body:
        for target, kind in _assigned(statement, growing, {}):
            if isinstance(target, ast.Name) and (not target.id.isupper() or target.id in changed):
                yield Container(f"{module}.{target.id}", kind, target.lineno)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from _of_class(node, growing)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if _is_endless_cache(decorator):
                    yield Container(f"{module}.{node.name}", "cache", node.lineno)


def _of_class(cls: ast.ClassDef, growing: set[str]) -> Iterator[Container]:
    found: dict[str, Container] = {}
    for statement in [] if _is_value(cls) else cls.body:
        for target, kind in _assigned(statement, growing, {}):
            if isinstance(target, ast.Name) and not target.id.isupper():
                found[target.id] = Container(f"{cls.name}.{target.id}", kind, target.lineno)
    for method in cls.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
        types = {a.arg: _type(a.annotation, growing) for a in arguments}
        for node in ast.walk(method):
            for target, kind in _assigned(node, growing, types):
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                    name = target.attr
                    found.setdefault(name, Container(f"{cls.name}.{name}", kind, target.lineno))
    yield from found.values()


def _assigned(
    node: ast.AST, growing: set[str], types: dict[str, str]
) -> Iterator[tuple[ast.expr, str]]:
    """The targets of an assignment that get a container, each with its kind."""
    if isinstance(node, ast.AnnAssign):
        if _is_bounded(node.value):
            return
        if kind := _value(node.value, growing, types) or _type(node.annotation, growing):
            yield node.target, kind
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            else:
                pairs = [(target, node.value)]
            for one, value in pairs:
                if kind := _value(value, growing, types):
                    yield one, kind


def _type(annotation: ast.expr | None, growing: set[str]) -> str:
    """The container that an annotation names, also in quotes or with `| None`; else ""."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _type(ast.parse(annotation.value, mode="eval").body, growing)
    if isinstance(annotation, ast.BinOp):
        return _type(annotation.left, growing) or _type(annotation.right, growing)
    if isinstance(annotation, ast.Subscript):
        return _type(annotation.value, growing)
    name = _name(annotation)
    return name if name in GROWING | growing else ""


def _value(value: ast.expr | None, growing: set[str], types: dict[str, str]) -> str:
    """The container that an expression makes or passes on; else ""."""
    if isinstance(value, _DISPLAYS):
        kind = type(value).__name__.lower().removesuffix("comp")
        entries = getattr(value, "keys", None) or getattr(value, "elts", None)
        return f"{kind} with entries" if entries else kind
    if isinstance(value, ast.Name):
        return types.get(value.id, "")
    if isinstance(value, ast.Call) and not _is_bounded(value):
        function = value.func
        name = _name(function.value if isinstance(function, ast.Subscript) else function)
        return name if name in GROWING | growing else ""
    return ""


def _is_bounded(value: ast.expr | None) -> bool:
    if not isinstance(value, ast.Call):
        return False
    name, words = _name(value.func), {word.arg for word in value.keywords}
    if name == "Recent" or (name == "deque" and "maxlen" in words):
        return True
    return name.endswith("Queue") and bool(value.args or "maxsize" in words)


def _is_endless_cache(decorator: ast.expr) -> bool:
    if isinstance(decorator, ast.Call):
        sizes = [*decorator.args, *(w.value for w in decorator.keywords if w.arg == "maxsize")]
        is_none = any(isinstance(s, ast.Constant) and s.value is None for s in sizes)
        return _name(decorator.func) == "lru_cache" and is_none
    return _name(decorator) == "cache"


def _is_value(cls: ast.ClassDef) -> bool:
    if any(_name(base) == "NamedTuple" for base in cls.bases):
        return True
    return any("frozen=True" in ast.unparse(decorator) for decorator in cls.decorator_list)


def _changed(tree: ast.Module) -> Iterator[str]:
    """The names of which a module changes what they refer to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield _name(node.value)
        elif isinstance(node, ast.Call) and isinstance(method := node.func, ast.Attribute):
            yield _name(method.value) if method.attr in _CHANGES else ""


def _collections_counter(tree: ast.Module) -> set[str]:
    """`Counter`, where it is that of `collections` and not a metric."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if node.module == "collections" for alias in node.names}
    return names & {"Counter"}


def _name(node: ast.expr | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
