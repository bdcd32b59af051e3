"""What the parts of a Python program do: which names they bind and read, what else they change.

May import the standard library only. tidy.py asks here before it takes anything out of a program.
"""
from __future__ import annotations

import ast
import collections

ANSWERS = {"solution", "answer", "ans", "result", "agent"}  # what environments read of a program
LAZY = {"zip", "enumerate", "reversed"}  # what they give can be read only once
PURE = LAZY | set("int float abs round len str pow divmod bool range sum min max sorted list tuple "
                  "set dict any all format math".split())  # "math": any function of that module
QUIET = set("math cmath random datetime fractions decimal statistics time typing itertools os sys "
            "functools collections re string json operator copy numpy sympy scipy pandas".split())
DISPLAYS = (ast.List, ast.Set, ast.Dict, ast.ListComp, ast.SetComp, ast.DictComp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp,
          ast.SetComp, ast.DictComp, ast.GeneratorExp)
IMPORTS = (ast.Import, ast.ImportFrom)
BINDING = (ast.Assign, ast.AnnAssign, ast.FunctionDef, *IMPORTS)
# These mean something even where they are never reached: a `yield` makes a function a generator.
UNREACHED = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal,
             ast.Match)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
# What a statement that only binds a name is made of; what stands in functions is not run by it.
INERT = (*FUNCTIONS, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr, ast.Pass, ast.Constant,
         ast.Name, ast.expr_context, ast.arguments, ast.arg)
# With these, a program may notice an error, or what an operator does, or call what has no name.
ODD = (*UNREACHED, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.AsyncFor, ast.Delete,
       ast.AsyncFunctionDef, ast.ClassDef, ast.Starred, ast.Lambda)


def binds(node):
    """The name that a node binds, or None: "x" for the x of `x = 1`, "f" for `def f(): ...`."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.alias):
        return (node.asname or node.name).partition(".")[0]
    return node.arg if isinstance(node, ast.arg) else getattr(node, "name", None)


def reads(nodes) -> list:
    """The names that nodes use, once for each use: ["x", "y"] of `x += y`."""
    names = []
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            names += node.names
    return names


def targets(part) -> set:
    """The names that an assignment, import or def surely binds: {"a", "b"} of `a, b = 1, 2`."""
    if isinstance(part, (ast.Name, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.alias)):
        return {binds(part)}
    parts = [getattr(part, "target", None)]
    for field in ("targets", "names", "elts"):
        parts += getattr(part, field, [])
    return {name for one in parts if isinstance(one, ast.AST) for name in targets(one)}


def types_of(nodes) -> set:
    """The nodes of all types: the `int` of `x: int = 3` and of `def f() -> int: ...`."""
    types = (getattr(node, field, None) for node in nodes for field in ("annotation", "returns"))
    return {inner for one in types if one for inner in ast.walk(one)}


def own(scope):
    """The nodes of a function, without those of the functions and comprehensions in it."""
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, SCOPES):
            todo += ast.iter_child_nodes(node)


def count(tree) -> int:
    return sum(1 for _ in ast.walk(tree))


def blocks(node) -> list:
    """The lists of statements in a node: body and orelse of an `if`."""
    some = [getattr(node, field, None) for field in ("body", "orelse")]
    return [block for block in some if isinstance(block, list)]


def leaves(statement) -> bool:
    """Whether the statement behind it is never reached: return, or an if whose branches all do."""
    def one(block):
        return any(map(leaves, block))
    if isinstance(statement, ast.If):
        return one(statement.body) and one(statement.orelse)
    if isinstance(statement, ast.Try):
        return (one(statement.body) or one(statement.orelse)) and all(
            one(handler.body) for handler in statement.handlers)
    if isinstance(statement, ast.While) and isinstance(statement.test, ast.Constant):
        return bool(statement.test.value) and not any(
            isinstance(node, ast.Break) for node in ast.walk(statement))
    return isinstance(statement, (ast.Return, ast.Raise, ast.Break, ast.Continue))


def inert(node) -> bool:
    """Whether a statement only binds names, whatever its functions do: `x = None`, `class A: ...`.

    Not so with a decorator, a base class, or a default that is computed: these are called.
    """
    if any(getattr(node, field, 0) for field in ("decorator_list", "bases", "keywords")):
        return False
    parts = ast.iter_child_nodes(node)
    if isinstance(node, FUNCTIONS):
        parts = filter(None, [node.args, getattr(node, "returns", None)])
    return isinstance(node, INERT) and all(map(inert, parts))


def unread(tree) -> set:
    """The statements that only bind names, such as nothing reads but they themselves."""
    read, found = collections.Counter(reads(ast.walk(tree))), set()
    for node in ast.walk(tree):
        names = targets(node) if isinstance(node, INERT) else set()
        if names and not names & ANSWERS and inert(node):
            itself = reads(ast.walk(node))
            if all(read[name] == itself.count(name) for name in names):
                found.add(node)
    return found


def answering(tree) -> list:
    """The statements that give the answer: solution(), and what sets or changes names it reads.

    All of them if solution() does not give it, or only if the program hands it something.
    """
    setting = collections.defaultdict(list)  # name -> statements
    for statement in tree.body:
        names = set(map(binds, own(ast.Module([statement], [])))) | declared(statement)
        names |= {getattr(node.value, "id", None) for node in ast.walk(statement)
                  if isinstance(node, (ast.Attribute, ast.Subscript))}  # xs.append(3), xs[0] = 3
        for name in names:
            setting[name].append(statement)
    parts = setting.pop("solution", [])[-1:]
    if not any(isinstance(one, ast.FunctionDef) and not wants_arguments(one.args)
               and any(map(states, own(one))) for one in parts):
        return tree.body
    for part in parts:  # grows meanwhile
        local = set(map(binds, own(part))) if isinstance(part, ast.FunctionDef) else set()
        for name in set(reads(ast.walk(part))) - (local - declared(part)):
            parts += setting.pop(name, [])
    return parts


def declared(tree) -> set:
    """The names in `global` statements."""
    return {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}


def wants_arguments(of: ast.arguments) -> bool:
    return len(of.posonlyargs + of.args) > len(of.defaults) or None in of.kw_defaults


def states(node) -> bool:
    """Whether it is a `return` of something other than None."""
    value = getattr(node, "value", None)
    return isinstance(node, ast.Return) and value is not None and not (
        isinstance(value, ast.Constant) and value.value is None)


def gives(function) -> bool:
    """Whether it returns something, wherever it ends."""
    return leaves(function.body[-1]) and all(
        node.value for node in own(function) if isinstance(node, ast.Return))


def counts(node: ast.AugAssign) -> bool:
    """Whether it changes no list: `x += 1` with a list would fail. (`x *= 2` would not.)"""
    return (isinstance(node.value, ast.Constant) and type(node.value.value) in (int, float)
            and not isinstance(node.op, ast.Mult))


class Facts:
    """What must be known of a whole program before anything in it can be called idle.

    simple    its effects are plain to see; if not, all else here means nothing
    returns   solution() gives the answer for sure, so nothing that is printed does
    harmless  its functions that change nothing, like `def f(a): return a + 1`
    needed    names that something reads, or an environment
    lasting   names that may be read at any time, or when the program has ended
    """

    def __init__(self, tree):
        nodes = list(ast.walk(tree))
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        defined = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        self.bound = collections.Counter(map(binds, nodes))
        self.functions = {node.name for node in defined}
        self.modules = {binds(one): getattr(node, "module", one.name)
                        for node in nodes if isinstance(node, IMPORTS) for one in node.names}
        self.variables = self.bound.keys() - self.functions - self.modules.keys()
        # Nodes that stand where a thing is read once, where None may be, and where functions may.
        self.once = {node.iter for node in nodes if isinstance(node, (ast.For, ast.comprehension))}
        self.once.update(arg for call in calls for arg in call.args if self.known(call) in LAZY
                         or self.known(call) in PURE and len(call.args) == 1)
        self.alone = {node.value for node in nodes if isinstance(node, ast.Expr)}
        self.called = {call.func for call in calls}
        self.called |= {node.value for node in nodes if isinstance(node, ast.Attribute)}
        typed = types_of(nodes)
        self.simple = not any(self.odd(node) for node in nodes if node not in typed)
        self.quiet = QUIET if typed else QUIET | {"__future__"}  # that is about types

        # In a simple program nothing is a function, and None is only what returns no value.
        # What is called in statements of its own alone, as main() is, may give None: nobody looks.
        top = [one for one in defined if one.name == "solution" and one in tree.body]
        asked = {getattr(call.func, "id", None) for call in calls if call not in self.alone}
        asked.add("solution")
        self.returns = (
            len(top) == self.bound["solution"] > 0 and all(count(one.args) == 1 for one in top)
            and all(gives(one) for one in defined if one.name in asked))
        # A list that has a name may have two, so that `b += [1]` changes what a is.
        self.lists = any(
            isinstance(one, DISPLAYS) and one not in self.once or isinstance(one, ast.Call)
            and self.known(one) in (None, "list", "set", "dict", "sorted") for one in nodes)
        fixed = set() if self.lists else {  # bound once: it does not matter when they are read
            name for one in tree.body if isinstance(one, BINDING) for name in targets(one)
            if self.bound[name] == 1}
        self.harmless = set()
        for one in defined * 2:  # those defined earlier first, then what calls later ones
            free = (set(reads(own(one))) - set(map(binds, own(one)))) & self.variables
            if self.bound[one.name] == 1 and free <= fixed:
                self.harmless.add(one.name)  # it may call itself
                if not self.pure(one):
                    self.harmless.remove(one.name)

        read = collections.Counter(reads(nodes))
        for node in nodes:  # what only its own `x = x + 1` reads is not read
            names = targets(node) if isinstance(node, (*BINDING, ast.AugAssign)) else ()
            if len(names) == 1 and self.idle(node) and (
                    node not in defined or self.bound[node.name] == 1):
                read.subtract(name for name in reads(ast.walk(node)) if name in names)
        environment = {"solution"} if self.returns else ANSWERS
        self.needed = environment.union(name for name, times in read.items() if times > 0)
        self.lasting = set() if self.returns else set(ANSWERS)
        for scope in nodes:  # what functions read of the scopes around them, whenever called
            if isinstance(scope, SCOPES):
                self.lasting |= set(reads(own(scope))) - set(map(binds, own(scope)))

    def known(self, call):
        """"sum" if Python's own sum is called, "math" for math.sqrt, else None."""
        if isinstance(getattr(call.func, "value", 0), ast.Constant):  # "{} eggs".format(3)
            return "format" if getattr(call.func, "attr", 0) == "format" else None
        name = getattr(getattr(call.func, "value", call.func), "id", None)
        if self.modules.get(name) == "math" and self.bound[name] == 1:
            return "math"
        return name if isinstance(call.func, ast.Name) and name not in self.bound else None

    def odd(self, node) -> bool:
        """Whether its effect is not plain to see: an unknown call, None, a function as a value."""
        if isinstance(node, ast.Call):  # in statements of their own: also xs.append(3) and print()
            name = self.known(node)
            fine = name in PURE - LAZY or node in self.once and name in LAZY
            owner = getattr(getattr(node.func, "value", None), "id", None)
            alone = node in self.alone and (
                name == "print" or owner is not None and owner in self.variables)
            return not (fine or alone or getattr(node.func, "id", None) in self.functions)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id != "__name__":
            special = node.id in self.functions or node.id in self.modules
            return special and node not in self.called or (
                node.id not in self.bound and node not in self.called)
        if isinstance(node, ast.Attribute):
            return node.attr.startswith("_") or node not in self.called and node.attr not in (
                "pi", "e", "tau", "inf")
        return (isinstance(node, ODD)
                or isinstance(node, ast.GeneratorExp) and node not in self.once
                or isinstance(node, ast.Constant) and (
                    node.value is None or "__" in str(node.value).replace("__main__", ""))
                or isinstance(node, ast.alias) and node.name == "*")

    def pure(self, *nodes) -> bool:
        """Whether running it changes nothing but the names it binds: `x = abs(y)` is pure."""
        def changes(node):
            if isinstance(node, ast.Call):
                name = self.known(node)
                return not (name in PURE or name == "print" and self.returns
                            or getattr(node.func, "id", None) in self.harmless)
            return (isinstance(node, (ast.Attribute, ast.Subscript))
                    and isinstance(node.ctx, ast.Store)
                    or isinstance(node, ast.AugAssign) and self.lists and not counts(node)
                    or bool(getattr(node, "decorator_list", 0)))
        return not any(changes(inner) for node in nodes if node for inner in ast.walk(node))

    def idle(self, node) -> bool:
        """Whether a statement is of no use but for the names that it binds."""
        if isinstance(node, IMPORTS):
            return self.quiet.issuperset(self.modules[binds(one)] for one in node.names)
        if isinstance(node, ast.FunctionDef):
            return not node.decorator_list and self.pure(node.args, node.returns)
        if isinstance(node, (ast.If, ast.For, ast.While)):
            return not node.body and not node.orelse and self.pure(node)
        return (isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr, ast.Assert))
                and self.pure(node))
