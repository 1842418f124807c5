"""D-Bus interfaces parsed from their introspection XML, which is the source for call checks and introspection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
    """A method with the signatures of its arguments and of its return values."""

    name: str
    in_signature: str
    out_signature: str


@dataclass(frozen=True, slots=True)
class BusProperty:
    """A property of an interface.

    Attributes:
        name: name on the bus.
        signature: type of the value.
        emits: when changes are announced: "true", "invalidates", "const" or "false".
    """

    name: str
    signature: str
    emits: str


@dataclass(frozen=True, slots=True)
class Interface:
    """A D-Bus interface.

    Attributes:
        name: name on the bus.
        methods, properties: members by name.
        signals: signatures by name.
        xml: the interface element as text, for introspection.
    """

    name: str
    methods: Mapping[str, Method]
    properties: Mapping[str, BusProperty]
    signals: Mapping[str, str]
    xml: str


def own_interfaces() -> dict[str, Interface]:
    """Return gpumand's own interfaces by name, read from files of the package."""
    return {name: _load_packaged(f"{name}.xml")[name] for name in OWN_INTERFACES}


def standard_interfaces() -> dict[str, Interface]:
    """Return Peer, Introspectable, Properties and ObjectManager by name, read from a file of the package."""
    return _load_packaged("freedesktop.xml")


def log_control_interface() -> Interface:
    """Return org.freedesktop.LogControl1, read from a file of the package."""
    return _load_packaged(f"{LOG_CONTROL}.xml")[LOG_CONTROL]


def parse_interfaces(xml: str) -> dict[str, Interface]:
    """Return the interfaces of an introspection document by name.

    Raises:
        ElementTree.ParseError: the text is not well-formed XML.
    """
    return {element.attrib["name"]: _interface(element) for element in ElementTree.fromstring(xml).iter("interface")}


def node_xml(interfaces: tuple[Interface, ...], children: tuple[str, ...]) -> str:
    """Return the introspection document of an object with these interfaces and child nodes."""
    parts = [interface.xml for interface in interfaces]
    parts += [f'  <node name="{child}"/>\n' for child in children]
    return f"{DOCTYPE}<node>\n{''.join(parts)}</node>\n"


def _load_packaged(name: str) -> dict[str, Interface]:
    return parse_interfaces(Path(__file__).with_name(name).read_text("utf-8"))


def _interface(element: ElementTree.Element) -> Interface:
    return Interface(
        name=element.attrib["name"],
        methods={method.name: method for method in map(_method, element.iter("method"))},
        properties={entry.name: entry for entry in map(_property, element.iter("property"))},
        signals={signal.attrib["name"]: _signature(signal, "") for signal in element.iter("signal")},
        xml=_to_xml(element),
    )


def _method(element: ElementTree.Element) -> Method:
    return Method(element.attrib["name"], _signature(element, "in"), _signature(element, "out"))


def _property(element: ElementTree.Element) -> BusProperty:
    return BusProperty(element.attrib["name"], element.attrib["type"], _annotation(element, EMITS_CHANGED) or "true")


def _signature(element: ElementTree.Element, direction: str) -> str:
    """Return the types of a member's arguments in one direction; "" selects those of signals, which have none."""
    arguments = element.findall("arg")
    return "".join(arg.attrib["type"] for arg in arguments if arg.attrib.get("direction", "") == direction)


def _annotation(element: ElementTree.Element, name: str) -> str:
    values = [note.attrib["value"] for note in element.findall("annotation") if note.attrib["name"] == name]
    return values[0] if values else ""


def _to_xml(element: ElementTree.Element) -> str:
    """Return the element as text, with each documentation text on one line.

    XML parsers turn line breaks in attribute values into spaces, so the line breaks would not survive anyway.
    """
    # The files wrap documentation over several lines; clients such as busctl would show the indentation.
    for note in element.iter("annotation"):
        note.attrib["value"] = " ".join(note.attrib["value"].split())
    ElementTree.indent(element, level=1)
    element.tail = "\n"
    return "  " + ElementTree.tostring(element, encoding="unicode")
