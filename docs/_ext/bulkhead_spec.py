"""Writes the specification chapter from the specification itself, and refuses orphans.

One page a module of ``spec/``: its docstring, then every step, property, record and helper in the order of
the source, each with its words, its links and its source code.  The pages go to ``specification/generated``
before Sphinx reads its sources.  Only ``setup`` imports Sphinx: all the rest is plain text work.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

GENERATED = "specification/generated"
NOTICE = ".. Generated from spec/ by docs/_ext/bulkhead_spec.py; make it again with `make docs`.\n"
LANGUAGE = "spec.language"
NOUNS = {
    "state": "The machine",
    "domain": "Domains",
    "memory": "Memory",
    "grant": "Grants",
    "language": "The language of the specification",
}
CODE_SPAN = re.compile(r"``(?P<double>.+?)``|`(?P<single>[^`]+)`", re.DOTALL)
IDENTIFIER = re.compile(r"\b[A-Z]{2,}(?:-[A-Z0-9]+)+\b")
DEVIATION = re.compile(r"\bDEV-(?P<words>\d+)\b|\"dev(?P<flag>\d+)\"")
NOT_TOLD = "Withheld: the Xen security team is to be told first."


@dataclass(frozen=True)
class Registry:
    """What the specification declares.  trouble: why it could not be imported."""

    transitions: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    deviations: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[ModuleType, ...] = ()
    trouble: str = ""
    demands: Mapping[str, Any] = field(default_factory=dict)
    """What the engine demands of every step by itself: each with ``id``, ``words`` and ``fulfils``."""

    def fulfils(self) -> dict[str, tuple[str, ...]]:
        """Id of each property and demand -> the requirements that it fulfils."""
        return {name: tuple(each.fulfils) for name, each in {**self.properties, **self.demands}.items()}


@dataclass
class Words:
    """A docstring taken apart."""

    summary: str = ""
    body: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    errors: str = ""
    source: str = ""


@dataclass
class Evidence:
    """What was run: test files -> the names in them; property -> its verdicts, and the mutants that it killed."""

    tests: dict[str, set[str]] = field(default_factory=dict)
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    kills: dict[str, list[str]] = field(default_factory=dict)


def evidence(root: Path) -> Evidence:
    """The tests as they stand, and the results in ``build/`` of the last runs, if there are any."""
    found = Evidence()
    for path in sorted((root / "tests").rglob("test_*.py")):
        found.tests[path.relative_to(root).as_posix()] = set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    for each in _results(root / "build" / "proofs.json", "properties"):
        found.verdicts[each["id"]] = each["verdicts"]
    for each in _results(root / "build" / "mutants.json"):
        if each["killed_by"] == "proof":
            found.kills.setdefault(each["property"], []).append(each["id"])
    return found


def _results(path: Path, key: str = "") -> list[dict[str, Any]]:
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = document[key] if key else document
    return found


def load() -> Registry:
    """Import every module of the specification; only the lack of the language itself is forgiven."""
    try:
        language = importlib.import_module(LANGUAGE)
    except ImportError as problem:
        return Registry(trouble=str(problem))
    spec = importlib.import_module("spec")
    modules = [importlib.import_module(each.name) for each in pkgutil.walk_packages(spec.__path__, "spec.")]
    demands = importlib.import_module("proofs.claims").GENERATED
    return Registry(
        language.TRANSITIONS, language.PROPERTIES, language.DEVIATIONS, tuple(modules), demands=demands
    )


# ---- words


def words_of(text: str | None, parameters: Iterable[str] = ()) -> Words:
    """Take a docstring apart: summary, body, a line for each parameter, ``Errors:`` and ``Source:``."""
    known = set(parameters)
    lines = [part for line in inspect.cleandoc(text or "").splitlines() for part in _entries(line, known)]
    found = Words()
    while lines and lines[0].strip():
        found.summary += lines.pop(0).strip() + " "
    found.summary = found.summary.strip()
    body: list[str] = []
    add: Callable[[str], None] = body.append
    for line in lines:
        start = re.match(r"(?P<key>[A-Za-z_][\w, ]*?)(?: \((?P<ghost>ghost)\))?: *(?P<rest>.*)", line)
        names = [each.strip() for each in start["key"].split(",")] if start else []
        if start and names == ["Errors"]:
            found.errors, add = start["rest"], _extend(found, "errors")
        elif start and names == ["Source"]:
            found.source, add = start["rest"], _extend(found, "source")
        elif start and set(names) <= known:
            found.parameters[", ".join(names)] = ("(ghost) " if start["ghost"] else "") + start["rest"]
            add = _extend_entry(found.parameters, ", ".join(names))
        elif not line.strip():
            body.append("")
            add = body.append
        else:
            add(line)
    found.body = "\n".join(body).strip()
    return found


def _entries(line: str, known: set[str]) -> list[str]:
    """A line that says something of several parameters, as one line for each."""
    parts = re.split(r"(?<=[.;])  (?=[a-z_][\w, ]*(?: \(ghost\))?: )", line)
    heads = [part.partition(":")[0].removesuffix(" (ghost)") for part in parts]
    named = [{each.strip() for each in head.split(",")} for head in heads]
    return parts if all(names <= known for names in named[1:]) else [line]


def _extend(words: Words, name: str) -> Callable[[str], None]:
    return lambda line: setattr(words, name, f"{getattr(words, name)} {line.strip()}")


def _extend_entry(entries: dict[str, str], key: str) -> Callable[[str], None]:
    return lambda line: entries.update({key: f"{entries[key]} {line.strip()}"})


def inline(text: str, known: Iterable[str] = ()) -> str:
    """Words as reStructuredText: code spans stay code, known identifiers are links, all else is literal."""
    ids = set(known)
    parts: list[str] = []
    end = 0
    for span in CODE_SPAN.finditer(text):
        parts += [_plain(text[end : span.start()], ids), f"``{span['double'] or span['single']}``"]
        end = span.end()
    parts.append(_plain(text[end:], ids))
    return "".join(parts)


def _plain(text: str, ids: set[str]) -> str:
    escaped = re.sub(r"(?P<mark>[\\*|`])", r"\\\g<mark>", text)
    escaped = re.sub(r"_(?=\W|$)", r"\\_", escaped)
    return IDENTIFIER.sub(lambda found: f":need:`{found[0]}`" if found[0] in ids else found[0], escaped)


def paragraphs(text: str, known: Iterable[str] = ()) -> str:
    """Several paragraphs; lists and their indentation stay."""
    ids = tuple(known)
    lines = []
    for line in text.splitlines():
        mark = re.match(r"\s*(?:[*-] +)?", line)
        start = mark[0] if mark else ""
        lines.append(start + inline(line[len(start) :], ids))
    return "\n".join(lines)


# ---- what a step writes


def tables_written(function: Callable[..., Any], seen: set[Any] | None = None) -> set[str]:
    """The tables that a function, or a function of the specification that it names, may write."""
    seen = set() if seen is None else seen
    function = inspect.unwrap(function)
    if not inspect.isfunction(function) or function in seen:
        return set()
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return set()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("put", "fill") and len(node.args) > 1:
            table = node.args[1]
            found |= (
                {table.value} if isinstance(table, ast.Constant) and isinstance(table.value, str) else set()
            )
        elif isinstance(node, (ast.Name, ast.Attribute)):
            found |= tables_written(_resolved(node, function.__globals__), seen)
    return found


def _resolved(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        found = names.get(node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner = names.get(node.value.id)
        found = getattr(owner, node.attr, None) if inspect.ismodule(owner) else None
    else:
        return None
    module = getattr(found, "__module__", "") or ""
    return None if module.startswith(LANGUAGE) else found


def affected(transition: Any, properties: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The properties that guard the tables which a step may write, and the requirements that they fulfil."""
    tables = tables_written(transition.function)
    theory = getattr(transition, "theory", "")
    guards = sorted(
        name for name, each in properties.items() if each.table in tables and getattr(each, "theory", "") == theory
    )
    return guards, sorted({each for name in guards for each in properties[name].fulfils}, key=_order)


def _order(identifier: str) -> tuple[str | int, ...]:
    return tuple(int(each) if each.isdigit() else each for each in identifier.split("-"))


# ---- pages


class Writer:
    """Writes the pages of one registry."""

    def __init__(self, registry: Registry, root: Path | None = None) -> None:
        self.registry = registry
        self.root = root or Path(__file__).resolve().parents[2]
        self.steps = {inspect.unwrap(each.function): each for each in registry.transitions.values()}
        self.claims = {inspect.unwrap(each.function): each for each in registry.properties.values()}
        fulfilled = {each for named in registry.fulfils().values() for each in named}
        self.known = {*registry.properties, *fulfilled}
        self.evidence = evidence(self.root)

    def pages(self) -> dict[str, str]:
        """File name -> text."""
        if self.registry.trouble:
            why = inline(self.registry.trouble)
            note = f"The specification could not be imported, so this chapter is empty: {why}."
            return {"index.rst": f"{NOTICE}\n{_title('The specification', '=')}{note}\n"}
        shown = [module for module in self.registry.modules if self._shown(module)]
        found = {f"{module.__name__}.rst": self.module(module) for module in shown}
        found["index.rst"] = self._index(found)
        found["properties.rst"] = self._overview()
        found["deviations.txt"] = self._deviations()
        return found

    @staticmethod
    def _shown(module: ModuleType) -> bool:
        name = module.__name__
        return not name.startswith(LANGUAGE + ".") and (not hasattr(module, "__path__") or name == LANGUAGE)

    def _index(self, names: Iterable[str]) -> str:
        nouns: dict[str, list[str]] = {}
        for name in names:
            nouns.setdefault(name.split(".")[1], []).append(name.removesuffix(".rst"))
        ordered = [each for each in NOUNS if each in nouns] + sorted(set(nouns) - {*NOUNS, "rst"})
        parts = [
            NOTICE,
            _title("Steps and properties", "="),
            _count(self.registry),
            ".. toctree::\n   :maxdepth: 1\n\n   properties\n",
        ]
        for noun in ordered:
            entries = "\n".join(f"   {each}" for each in sorted(nouns[noun]))
            caption = NOUNS.get(noun, noun.capitalize())
            parts.append(f".. toctree::\n   :caption: {caption}\n   :maxdepth: 2\n\n{entries}\n")
        return "\n".join(parts)

    def _overview(self) -> str:
        rows = [("Property", "In words", "Over", "Fulfils", "Flaws that it catches")]
        for name, each in sorted(self.registry.properties.items()):
            words = inline(words_of(each.function.__doc__).summary, self.known)
            rows.append(
                (
                    f":need:`{name}`",
                    words,
                    f"``{each.table}``",
                    _needs(each.fulfils),
                    ", ".join(getattr(each, "catches", ())) or "–",
                )
            )
        intro = (
            "What must hold of every row of a table: in every state, or between the two states of one step. "
            "Every step is proved to keep every property."
        )
        return "\n".join(
            [
                NOTICE,
                _title("Every property, in words", "="),
                intro,
                "",
                _table(rows, (18, 44, 10, 14, 14)),
                *self._demands(),
            ]
        )

    def _demands(self) -> Iterator[str]:
        """What the engine demands of every step without being asked."""
        if self.registry.demands:
            yield _title("Demanded of every step", "-")
        for each in self.registry.demands.values():
            options = {"id": each.id, "kind": "demand", "fulfils": "; ".join(each.fulfils)}
            yield _directive("prop", each.id.replace("-", " ").lower(), options, inline(each.words))

    def _deviations(self) -> str:
        """A part of the page on deviations; of one that is not public, no more than its title."""
        parts = [NOTICE]
        for name, each in sorted(self.registry.deviations.items(), key=lambda entry: _order(entry[0])):
            claims = [claim.id for claim in self.registry.properties.values() if name in claim.except_for]
            told = bool(each.public)
            facts = {
                "When": inline(each.condition, self.known) if told else NOT_TOLD,
                "Then": inline(each.consequence, self.known) if told else "",
                "For example": inline(each.trace) if told else "",
                "Source": inline(each.source) if told else "",
                "Described here because": inline(each.public),
                "Properties that it spoils": _needs(sorted(claims)) if claims else "",
            }
            parts += [f".. _{name}:\n", _title(f"{name}: {each.title}", "-"), _fields(facts)]
        if not self.registry.deviations:
            parts.append("None is registered.\n")
        return "\n".join(parts)

    def is_withheld(self, thing: Any, code: str) -> bool:
        """The code shows how a deviation comes about that is not public.  Properties and the state only name it."""
        module = getattr(thing, "__module__", "")
        if module.endswith("invariants") or module in {"spec.state", "spec.deviations", "spec.isolation"}:
            return False
        named = {f"DEV-{each['words'] or each['flag']}" for each in DEVIATION.finditer(code)}
        return any(not each.public for name, each in self.registry.deviations.items() if name in named)

    def module(self, module: ModuleType) -> str:
        """One page: the module's words, then everything in it in the order of the source."""
        words = inspect.getdoc(module) or ""
        head, _, rest = words.partition("\n\n")
        title = " ".join(head.split()).rstrip(".").replace("`", "")
        parts = [
            NOTICE,
            f".. _module-{module.__name__}:",
            _title(title or module.__name__, "="),
            f"``{module.__name__}``",
            paragraphs(rest, self.known),
        ]
        for name, each in members(module):
            parts.append(self._member(name, each))
        return _joined(*parts)

    def _member(self, name: str, each: Any) -> str:
        function = inspect.unwrap(each)
        if function in self.steps:
            return self.step(self.steps[function])
        if function in self.claims:
            return self.claim(self.claims[function])
        words = words_of(each.__doc__, _parameters(each))
        return _joined(
            _title(name, "-"),
            inline(words.summary, self.known),
            paragraphs(words.body, self.known),
            self._details(words, _fields_of(each), "Field" if inspect.isclass(each) else "Parameter"),
            self._code(each),
        )

    def step(self, step: Any) -> str:
        """A step: what it does and for whom, its parameters and errors, and what guards what it writes."""
        words = words_of(step.function.__doc__, step.parameters)
        guards, requirements = affected(step, self.registry.properties)
        hypercall = getattr(step, "hypercall", "")
        options = {"id": step.name, "hypercall": hypercall, "affects": "; ".join(requirements)}
        need = _directive("step", step.name, options, inline(words.summary, self.known))
        actor = getattr(step, "actor", "")
        facts = {
            "Hypercall": f"``{hypercall}``" if hypercall else "",
            "On behalf of": f"``{actor}``" if actor else "Xen or the hardware",
            "Repairs": f":need:`{step.repairs}`" if getattr(step, "repairs", "") else "",
            "Properties of the tables it may write": ", ".join(f":need:`{each}`" for each in guards),
            "Tests": ", ".join(f"``{name}``" for name, words in self.evidence.tests.items() if step.name in words),
        }
        return _joined(
            _title(step.name, "-"),
            need,
            paragraphs(words.body, self.known),
            self._details(words, step.parameters),
            _fields(facts),
            self._code(step.function),
        )

    def claim(self, claim: Any) -> str:
        """A property: its words and table, the requirements that it fulfils, the flaws that it catches."""
        words = words_of(claim.function.__doc__)
        kind = "two states" if claim.two_state else "every state"
        if getattr(claim, "derived", False):
            kind = "corollary"
        options = {
            "id": claim.id,
            "kind": kind,
            "table": claim.table,
            "fulfils": "; ".join(claim.fulfils),
            "catches": ", ".join(getattr(claim, "catches", ())),
        }
        need = _directive(
            "prop", claim.function.__name__.replace("_", " "), options, inline(words.summary, self.known)
        )
        deviations = ", ".join(
            f":ref:`{each}`" if each in self.registry.deviations else each
            for each in getattr(claim, "except_for", ())
        )
        verdicts = self.evidence.verdicts.get(claim.id, {})
        kills = self.evidence.kills.get(claim.id, [])
        facts = {
            "Holds except for": deviations,
            "Keeps from firing": inline(getattr(claim, "assertion", "")),
            "Last proof": ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items())),
            "Mutants that it killed": f"{len(kills)}: {', '.join(sorted(kills)[:20])}" if kills else "",
        }
        return _joined(
            _title(claim.id, "-"),
            need,
            paragraphs(words.body, self.known),
            _fields(facts),
            self._code(claim.function),
        )

    def _details(self, words: Words, types: Mapping[str, str], head: str = "Parameter") -> str:
        rows = []
        for names, text in words.parameters.items():
            type_ = types.get(names.split(",")[0], "")
            rows.append((f"``{names}``", f"``{type_}``" if type_ else "", inline(text, self.known)))
        named = {each for names in words.parameters for each in names.split(", ")}
        rows += [(f"``{name}``", f"``{type_}``", "") for name, type_ in types.items() if name not in named]
        table = _table([(head, "Type", "Meaning"), *rows], (20, 20, 60)) if rows else ""
        facts = {"Errors": inline(words.errors, self.known), "Source": inline(words.source, self.known)}
        return _joined(table, _fields(facts))

    def _code(self, thing: Any) -> str:
        try:
            lines, line = inspect.getsourcelines(inspect.unwrap(thing))
            path = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "")
        except (OSError, TypeError):
            return ""
        if self.is_withheld(thing, "".join(lines)):
            return f"*The code is not shown here.*  {NOT_TOLD}\n"
        shown = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)
        code = textwrap.indent(textwrap.dedent("".join(lines)).rstrip(), "   ")
        return f".. code-block:: python\n   :caption: {shown}, line {line}\n\n{code}\n"


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes of a module in the order of its source; of a package, what it offers."""
    if hasattr(module, "__path__"):
        for name in getattr(module, "__all__", ()):
            each = getattr(module, name)
            if inspect.isfunction(each) or inspect.isclass(each):
                yield name, each
        return
    found = []
    for name, each in vars(module).items():
        if name.startswith("__") or getattr(each, "__module__", "") != module.__name__:
            continue
        if inspect.isclass(each) or inspect.isfunction(inspect.unwrap(each) if callable(each) else each):
            try:
                found.append((inspect.getsourcelines(inspect.unwrap(each))[1], name, each))
            except (OSError, TypeError):
                continue
    for _, name, each in sorted(found, key=lambda entry: entry[:2]):
        yield name, each


def _parameters(thing: Any) -> list[str]:
    try:
        return list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return []


def _fields_of(thing: Any) -> dict[str, str]:
    """The fields of a record and their types, as they stand in its source."""
    if not hasattr(thing, "__attrs_attrs__"):
        return {}
    return {name: str(type_) for name, type_ in inspect.get_annotations(thing).items() if not name.startswith("__")}


def _joined(*parts: str) -> str:
    """Parts with one blank line between them; empty ones are left out, and inside a part nothing changes."""
    return "\n".join(each.strip("\n") + "\n" for each in parts if each.strip())


def _count(registry: Registry) -> str:
    return f"{len(registry.transitions)} steps and {len(registry.properties)} properties.\n"


def _title(text: str, line: str) -> str:
    text = inline(text).replace("``", "")
    return f"{text}\n{line * max(len(text), 3)}\n"


def _needs(identifiers: Iterable[str]) -> str:
    return ", ".join(f":need:`{each}`" for each in identifiers) or "–"


def _directive(name: str, title: str, options: Mapping[str, str], body: str) -> str:
    lines = [
        f".. {name}:: {title}",
        *[f"   :{key}: {value}" for key, value in options.items() if value],
        "",
        f"   {body}",
        "",
    ]
    return "\n".join(lines)


def _fields(facts: Mapping[str, str]) -> str:
    return "".join(f":{key}: {value.strip()}\n" for key, value in facts.items() if value.strip()) + "\n"


def _table(rows: Sequence[tuple[str, ...]], widths: tuple[int, ...]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for row in rows:
        lines += [f"   {'*' if not index else ' '} - {cell}".rstrip() for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def write(pages: Mapping[str, str], folder: Path) -> None:
    """Write what changed and remove what is gone, so that Sphinx reads only what is new."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pages:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# ---- orphans


def orphans(
    properties: Mapping[str, Iterable[str]], requirements: Mapping[str, tuple[str, str]]
) -> list[str]:
    """What is linked in one direction only.

    properties: id -> the requirements that it fulfils.  requirements: id -> (status, reason).
    """
    found = []
    served = set()
    for name, fulfils in sorted(properties.items()):
        named = list(fulfils)
        served |= set(named)
        if not named:
            found.append(f"{name} fulfils no requirement")
        found += [
            f"{name} fulfils {each}, which is no requirement" for each in named if each not in requirements
        ]
    for name, (status, reason) in sorted(requirements.items(), key=lambda entry: _order(entry[0])):
        if status == "planned":
            if not reason.strip():
                found.append(f"{name} is planned, but does not say what is missing (:reason:)")
        elif name not in served:
            found.append(f"{name} is fulfilled by no property (and is not `planned`)")
    return found


# ---- Sphinx


def setup(app: Any) -> dict[str, Any]:
    """Connect to Sphinx."""
    from sphinx.errors import ExtensionError
    from sphinx.util import logging
    from sphinx_needs.data import SphinxNeedsData

    logger = logging.getLogger(__name__)
    try:
        registry = load()
    except ImportError as problem:
        raise ExtensionError(f"the specification cannot be imported: {problem}") from problem

    def generate(application: Any) -> None:
        write(Writer(registry).pages(), Path(application.srcdir) / GENERATED)

    def check(_application: Any, environment: Any) -> None:
        if registry.trouble:
            return
        needs = SphinxNeedsData(environment).get_needs_mutable()
        stated = {
            name: (str(need["status"] or ""), str(need["reason"] or ""))
            for name, need in needs.items()
            if need["type"] == "req"
        }
        for each in orphans(registry.fulfils(), stated):
            logger.warning("orphan: %s", each, type="bulkhead", subtype="orphan")

    app.connect("builder-inited", generate)
    app.connect("env-check-consistency", check)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
