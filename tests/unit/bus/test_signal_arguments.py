"""Programs that show signals name their arguments as the XML description of the interface does."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from gpumand.bus.signal_arguments import SIGNAL_ARGUMENTS

XML = Path(__file__).resolve().parents[3] / "dbus" / "org.gpumand1.Manager.xml"


def test_every_signal_is_known_with_the_arguments_of_its_description() -> None:
    described = {
        signal.attrib["name"]: tuple(one.attrib["name"] for one in signal.iter("arg"))
        for signal in ET.parse(XML).iter("signal")
    }

    assert described == SIGNAL_ARGUMENTS
