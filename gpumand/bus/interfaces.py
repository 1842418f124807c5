"""The interfaces as their XML says: read once, then every call is checked against them and introspection shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from xml.etree import ElementTree

from gpumand.bus.names import CONSUMER, DEVICE, LEASE, LOG_CONTROL, MANAGER

EMITS_CHANGED = "org.freedesktop.DBus.Property.EmitsChangedSignal"
DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)

OWN_INTERFACES = (MANAGER, DEVICE, CONSUMER, LEASE)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: the signatures of what goes in and of what comes out."""

    name: str
    takes: str
    gives: str


@dataclass(frozen=True, slots=True)
class BusProperty:
    """A property.

    Attributes:
        name: as on the bus.
        signature: one complete type.
        emits: "true", "invalidates", "const" or "false".
    """

    name: str
    signature: str
    emits: str


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface.

    Attributes:
        name: as on the bus.
        methods, properties: by name.
        signals: name -> signature.
        xml: its element, for introspection.
    """

    name: str
    methods: Mapping[str, Method]
    properties: Mapping[str, BusProperty]
    signals: Mapping[str, str]
    xml: str


def own_interfaces() -> dict[str, Interface]:
    """The interfaces of gpumand, by name. Reads files that ship with it."""
    return {name: _shipped(f"{name}.xml")[name] for name in OWN_INTERFACES}


def standard_interfaces() -> dict[str, Interface]:
    """Peer, Introspectable, Properties and ObjectManager, by name. Reads a file that ships with gpumand."""
    return _shipped("freedesktop.xml")


def log_control_interface() -> Interface:
    """org.freedesktop.LogControl1. Reads a file that ships with gpumand."""
    return _shipped(f"{LOG_CONTROL}.xml")[LOG_CONTROL]


def parse_interfaces(xml: str) -> dict[str, Interface]:
    """The interfaces of an introspection document, by name.

    Raises:
        ElementTree.ParseError: it is no XML.
    """
    return {element.attrib["name"]: _interface(element) for element in ElementTree.fromstring(xml).iter("interface")}


def node_xml(interfaces: tuple[Interface, ...], children: tuple[str, ...]) -> str:
    """What ``Introspect`` answers for an object with these interfaces and child nodes."""
    parts = [interface.xml for interface in interfaces]
    parts += [f'  <node name="{child}"/>\n' for child in children]
    return f"{DOCTYPE}<node>\n{''.join(parts)}</node>\n"


def _shipped(name: str) -> dict[str, Interface]:
    return parse_interfaces(files("gpumand.bus").joinpath(name).read_text("utf-8"))


def _interface(element: ElementTree.Element) -> Interface:
    return Interface(
        name=element.attrib["name"],
        methods={method.name: method for method in map(_method, element.iter("method"))},
        properties={entry.name: entry for entry in map(_property, element.iter("property"))},
        signals={signal.attrib["name"]: _signature(signal, "") for signal in element.iter("signal")},
        xml=_indented(element),
    )


def _method(element: ElementTree.Element) -> Method:
    return Method(element.attrib["name"], _signature(element, "in"), _signature(element, "out"))


def _property(element: ElementTree.Element) -> BusProperty:
    return BusProperty(element.attrib["name"], element.attrib["type"], _annotation(element, EMITS_CHANGED) or "true")


def _signature(element: ElementTree.Element, direction: str) -> str:
    """The types of a member's arguments; ``direction`` "" for signals, whose arguments have none."""
    arguments = element.findall("arg")
    return "".join(arg.attrib["type"] for arg in arguments if arg.attrib.get("direction", "") == direction)


def _annotation(element: ElementTree.Element, name: str) -> str:
    values = [note.attrib["value"] for note in element.findall("annotation") if note.attrib["name"] == name]
    return values[0] if values else ""


def _indented(element: ElementTree.Element) -> str:
    """The element as text, with documentation unwrapped to one line (attribute values cannot hold line breaks)."""
    for note in element.iter("annotation"):
        note.attrib["value"] = " ".join(note.attrib["value"].split())
    ElementTree.indent(element, level=1)
    element.tail = "\n"
    return "  " + ElementTree.tostring(element, encoding="unicode")
